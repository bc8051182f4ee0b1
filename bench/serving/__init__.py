"""Measures a real model end to end."""
