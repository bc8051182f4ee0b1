"""Token ids as they come in from outside: checked once, here, and int32 from then on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TokenRun = NDArray[np.int32]
MAX_TOKEN_ID = 0x7FFFFFFE


def as_run(name: str, token_ids: Sequence[int] | TokenRun) -> TokenRun:
    """Return the ids as int32; ValueError names the field and the first value that is none."""
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
