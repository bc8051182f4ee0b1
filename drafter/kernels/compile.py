"""How every kernel is compiled: without the interpreter lock, and cached where a disk allows it.

Kernels are free functions over plain arrays; the classes that own the arrays are in other files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

from rpc.kernel_cache import cache_folder, caching_in

# Inside a kernel every number is a NumPy scalar or a Python one.
Int = int | np.integer[Any]
Real = float | np.floating[Any]
# At every signed index numba asks whether it counts back from the end of the array. That takes a
# fifth of the time of a draft, so the loops that run most make their indices unsigned.
Index = np.uint64

CACHE = cache_folder(Path(__file__).parent)

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function on its first call; it releases the interpreter lock and is cached."""
    # A dispatcher is called exactly like the function it compiles.
    with caching_in(CACHE):
        return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def part(function: Function) -> Function:
    """Compile a function that only kernels call, into each of them: no calls, no way in."""
    options: dict[str, Any] = {
        "forceinline": True,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    with caching_in(CACHE):
        compiled = numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    return cast(Function, compiled)
