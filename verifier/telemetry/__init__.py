"""Counters, metrics and the request log."""
