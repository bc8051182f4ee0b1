"""Sizes as people read them."""


def gib(num_bytes: float) -> str:
    """Write a number of bytes as GiB: 3 << 29 is "1.50 GiB"."""
    return f"{num_bytes / 2**30:.2f} GiB"
