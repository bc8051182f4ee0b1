"""Loops over rows that torch has no operation for, compiled by numba for this processor."""
