"""Calls of kernels, shared by a team of threads while a pass lasts."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from verifier.kernels.team import Team, team_of

# What every call begins with, by index: the pieces of work taken so far, the threads that have come
# so far, and where and in how many bytes each of them works.
TICKET, THREAD, SCRATCH, SCRATCH_SIZE, NUM_SHARED = range(5)


class Call:
    """The integers that describe a call of a kernel, and the calling of it."""

    def __init__(self, kernel: Any, num_fields: int) -> None:
        # Written at each call of some hundreds in a pass, which ctypes does sooner than NumPy.
        self.fields: Any = (ctypes.c_int64 * num_fields)()
        self._kernel = kernel
        self._entry = kernel.address
        self._address = ctypes.addressof(self.fields)

    def run(self, scratch_size: int) -> None:
        """Share the pieces of work with the team; each thread gets so many bytes to work in."""
        self.fields[:NUM_SHARED] = 0, 0, _scratch(num_threads() * scratch_size), scratch_size
        if _local.team is None:
            self._kernel.ctypes(self._address)
        else:
            _local.team.run(self._entry, self._address)

    def run_alone(self, kernel: Any) -> None:
        """Call another kernel with the same integers, in this thread."""
        kernel.ctypes(self._address)


def num_threads() -> int:
    """How many threads kernels run in: while a pass lasts, as many as torch had before it."""
    return 1 if _local.team is None else _local.team.num_threads


@contextmanager
def kernels_only() -> Iterator[None]:
    """Run kernels in as many threads as torch has, and torch's own operations in the calling one.

    Where an operation on many numbers is cut for threads, the numbers beside a cut are computed by
    other instructions and may round otherwise; and a cut falls elsewhere for each number of rows.
    """
    count = torch.get_num_threads()
    team = team_of(count)
    torch.set_num_threads(1)
    try:
        with nullcontext() if team is None else team.awake() as _local.team:
            yield
    finally:
        _local.team = None
        torch.set_num_threads(count)


class _Local(threading.local):
    """What each thread has for itself."""

    team: Team | None = None


_local = _Local()


def _scratch(size: int) -> int:
    """The address of so many bytes, which belong to the calling thread."""
    held: np.ndarray[Any, Any] | None = getattr(_local, "scratch", None)
    if held is None or held.nbytes < size:
        held = _local.scratch = np.zeros(size, np.uint8)
        _local.address = held.ctypes.data
    address: int = _local.address
    return address
