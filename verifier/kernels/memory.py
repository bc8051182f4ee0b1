"""Memory for weights, in the largest pages that the system gives.

A pass reads every weight once, so few of its addresses are known to the processor from before. With
pages of 2 MB instead of 4 KB it looks up a five-hundredth of them.
"""

import math
import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

PAGE = 2 << 20
CHUNK = 16 * PAGE
LINE = 64  # what a processor reads at once


class Arena:
    """Places weights one behind the other; a chunk lives as long as any weight in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with whatever is in the memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        taken = num_bytes + -num_bytes % LINE
        with self._lock:
            if taken > len(self._chunk):
                self._chunk = _chunk(max(taken, CHUNK))
            place, self._chunk = self._chunk[:num_bytes], self._chunk[taken:]
        return place.view(dtype).view(shape)


def _chunk(size: int) -> Tensor:
    """Bytes that begin where a large page does."""
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not Linux, or a Linux without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % PAGE
    return whole[start : start + size]


WEIGHTS = Arena()
