"""What faults, floods and hostile clients do to a running stack: `python -m bench.chaos`."""
