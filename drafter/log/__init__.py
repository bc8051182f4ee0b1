"""The durable log in Redis; the only code that knows redis."""
