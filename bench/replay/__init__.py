"""Replays recorded requests through draft sources."""
