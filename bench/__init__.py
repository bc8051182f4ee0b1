"""Measurements: the drafter alone on recorded answers, and both services end to end."""
