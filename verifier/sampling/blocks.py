"""Rows in blocks of one shape, so that what is computed of a row does not depend on its company.

A sum over a vocabulary is cut into parts, and where it is cut depends on the shape of the whole. So
each row's sums are the same to the last bit only if they are always taken in the same shape.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

# A GPU takes little longer for many rows than for one. A CPU takes them one by one.
GPU_BLOCK, CPU_BLOCK = 32, 1

Own = TypeVar("Own", int, float, Any)


def in_blocks(
    rows: Sequence[int], own: Sequence[Own], device: torch.device
) -> Iterator[tuple[Tensor, list[Own]]]:
    """Yield the rows of each block, and what belongs to each; the last block is filled up."""
    size = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    for start in range(0, len(rows), size):
        block, belongings = list(rows[start : start + size]), list(own[start : start + size])
        missing = size - len(block)
        index = torch.tensor(block + block[:1] * missing)
        yield index.to(device, non_blocking=True), belongings + belongings[:1] * missing
