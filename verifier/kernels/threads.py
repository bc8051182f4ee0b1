"""Runs a kernel in the threads that torch's own operations run in.

A second pool would fight the first one for the processors: threads of both spin for a while after
their work. torch's pool is that of the OpenMP library it brings; a kernel enters it as compiled
code does.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch


def run(kernel: Any, call: int, num_threads: int) -> None:
    """Let `num_threads` threads call a compiled kernel with the address of its arguments."""
    if num_threads > 1 and _enter is not None:
        _enter(kernel.address, call, num_threads, 0)
    else:
        kernel.ctypes(call)


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
