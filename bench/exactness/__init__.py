"""Compares words with and without drafts."""
