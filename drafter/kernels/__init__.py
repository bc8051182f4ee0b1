"""Compiled kernels over plain arrays; the only code that knows numba."""
