"""Output forms: JSON schemas, regular expressions, choices."""
