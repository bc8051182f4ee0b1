"""Token ids as they come in from outside: checked once, here, and int32 from then on."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

TokenRun = NDArray[np.int32]
# What may come in; any whole numbers do, and are checked.
TokenIds = Sequence[int] | NDArray[np.integer[Any]]
MAX_TOKEN_ID = 0x7FFFFFFE
_SHORT = 64
_INT32 = np.dtype(np.int32)


def as_run(name: str, token_ids: TokenIds) -> TokenRun:
    """Return the ids as int32; ValueError names the field and the first invalid id."""
    if type(token_ids) is list and 0 < len(token_ids) <= _SHORT:
        # A step emits a few tokens: their least and greatest are found faster without NumPy.
        short = np.array(token_ids)
        plain = short.dtype == np.int64 and short.ndim == 1
        if plain and min(token_ids) >= 0 and max(token_ids) <= MAX_TOKEN_ID:
            return short.astype(np.int32)
    if isinstance(token_ids, np.ndarray) and is_run(token_ids):
        return token_ids
    try:
        given = np.asarray(token_ids)
    except (OverflowError, ValueError, TypeError) as error:
        raise ValueError(f"{name}: not a row of token ids: {error}") from error
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(f"{name}: {given.dtype} of shape {given.shape} is not a row of ids")
    if given.size and (given.min() < 0 or given.max() > MAX_TOKEN_ID):
        bad = int(np.flatnonzero((given < 0) | (given > MAX_TOKEN_ID))[0])
        raise ValueError(f"{name}[{bad}]: {given[bad]} is not a token id (0 to {MAX_TOKEN_ID})")
    return np.ascontiguousarray(given, dtype=np.int32)


def is_run(given: NDArray[np.integer[Any]]) -> TypeGuard[TokenRun]:
    """Whether an array is what `as_run` returns; few numbers are looked at faster as a list."""
    if given.dtype != _INT32 or given.ndim != 1 or not given.flags.c_contiguous:
        return False
    if len(given) <= _SHORT:
        few = given.tolist()
        return not few or (min(few) >= 0 and max(few) <= MAX_TOKEN_ID)
    return bool(given.view(np.uint32).max() <= MAX_TOKEN_ID)
