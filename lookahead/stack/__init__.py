"""The local stack: processes, private Redis, the model's cache."""
