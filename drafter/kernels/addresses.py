"""Arrays by their addresses, so that one call of a kernel reaches those of many sequences.

Each function is what the interpreter runs; beside it stands what is compiled in its place.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from drafter.kernels.compile import Int

carray: Any = numba.carray  # type: ignore[attr-defined]  # made at import


def ints_at(address: Int, length: Int) -> NDArray[np.int32]:
    """Return the int32 array at an address."""
    return _at(ctypes.c_int32, address, length)


def floats_at(address: Int, length: Int) -> NDArray[np.float32]:
    """Return the float32 array at an address."""
    return _at(ctypes.c_float, address, length)


def _at(kind: Any, address: Int, length: Int) -> NDArray[Any]:
    return np.ctypeslib.as_array((kind * int(length)).from_address(int(address)))


def _pointer_to(kind: Any) -> Any:
    """Return what makes a pointer of an address, in compiled code."""

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code  # type: ignore[no-untyped-call]

    return pointer


_int_pointer, _float_pointer = _pointer_to(types.int32), _pointer_to(types.float32)


@overload(ints_at, strict=False)
def _ints_at(address: Any, length: Any) -> Callable[..., Any]:
    return lambda address, length: carray(_int_pointer(address), (length,))


@overload(floats_at, strict=False)
def _floats_at(address: Any, length: Any) -> Callable[..., Any]:
    return lambda address, length: carray(_float_pointer(address), (length,))
