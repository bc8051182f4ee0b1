"""Replicas of the memory, on a real and on a simulated log."""
