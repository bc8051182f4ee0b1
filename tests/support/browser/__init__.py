"""A browser, and the live view in it."""
