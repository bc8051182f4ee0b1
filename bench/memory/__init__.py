"""Measures the shared memory: delays, losses, faults, sizes."""
