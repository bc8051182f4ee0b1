"""How kernels are compiled: for threads that torch starts, without the interpreter, and cached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from rpc.kernel_cache import cache_folder, caching_in

CACHE = cache_folder(Path(__file__).parent)

Function = TypeVar("Function", bound=Callable[..., Any])


def part(function: Function) -> Function:
    """Compile a function that only kernels call, into each of them."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Function, numba.njit(nogil=True, error_model="numpy", **options)(function))


def entry(function: Callable[[int], None]) -> Any:
    """Compile a kernel, now: compiled code calls it with the address of what it needs."""
    signature = numba.types.void(numba.types.int64)
    with caching_in(CACHE):
        return numba.cfunc(signature, cache=True, error_model="numpy")(function)
