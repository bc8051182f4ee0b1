"""Sizes of memory as people write them."""

import re

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?")


def parse_size(text: str) -> int:
    """Bytes of "800000000", "750M", "1.5GiB" and the like; units are powers of 1024."""
    match = SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError(f"expected a size such as 8GiB, not {text!r}")
    return size
