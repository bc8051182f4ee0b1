"""A replica of the memory inside a verifier: the only package that knows both services."""
