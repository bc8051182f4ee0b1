"""Drafts: sessions, calibrated probabilities, successor tables."""
