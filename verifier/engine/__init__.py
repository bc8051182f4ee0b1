"""The engine: queue, sequences, and the decode step."""
