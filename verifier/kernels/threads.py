"""Runs a kernel in the threads that torch's own operations run in.

A second pool would fight the first one for the processors, since threads of both spin for a while
after their work. torch's pool is that of the OpenMP library it brings, and a kernel enters it as
compiled code does.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
        """Let torch's threads share the pieces of work; each gets so many bytes to work in."""
        count = num_threads()
        self.fields[:NUM_SHARED] = 0, 0, _scratch(count * scratch_size), scratch_size
        if count > 1 and _enter is not None:
            _enter(self._entry, self._address, count, 0)
        else:
            self._kernel.ctypes(self._address)

    def run_alone(self, kernel: Any) -> None:
        """Call another kernel with the same integers, in this thread."""
        kernel.ctypes(self._address)


def num_threads() -> int:
    """How many threads kernels run in: as many as torch has, or had before `kernels_only`."""
    return getattr(_local, "num_threads", None) or torch.get_num_threads()


@contextmanager
def kernels_only() -> Iterator[None]:
    """Leave torch's threads to kernels: its own operations run in the calling one.

    Where an operation on many numbers is cut for threads, the numbers beside a cut are computed by
    other instructions and may round otherwise; and a cut falls elsewhere for each number of rows.
    """
    _local.num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_local.num_threads)
        _local.num_threads = None


_local = threading.local()


def _scratch(size: int) -> int:
    """The address of so many bytes, which belong to the calling thread."""
    held: np.ndarray[Any, Any] | None = getattr(_local, "scratch", None)
    if held is None or held.nbytes < size:
        held = _local.scratch = np.zeros(size, np.uint8)
        _local.address = held.ctypes.data
    address: int = _local.address
    return address


def _find_entry() -> Any:
    """GNU OpenMP's way in; None where torch brings another library."""
    library = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    if not library.exists():
        return None
    enter = ctypes.CDLL(str(library)).GOMP_parallel
    enter.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    enter.restype = None
    return enter


_enter = _find_entry()
