"""The target model's own recent top next tokens, per last token: drafts where nothing matches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.mixing import SUCCESSOR_RANKS
from drafter.trie.token_run import MAX_TOKEN_ID, is_run

MAX_ROWS = 1 << 15
_EMPTY = np.zeros(1, np.int32)
Rows = Sequence[Sequence[int]] | NDArray[np.int32]


class Successors:
    """A bounded table; a row makes way for a newer one that falls on its place."""

    def __init__(self) -> None:
        self.table = _EMPTY

    @property
    def num_bytes(self) -> int:
        """Memory the table takes; nothing before the first feedback."""
        return self.table.nbytes if len(self.table) > 1 else 0

    def reserve(self) -> None:
        """Make the table, where there is none yet."""
        if len(self.table) == 1:
            self.table = np.full(1 + MAX_ROWS * (1 + SUCCESSOR_RANKS), -1, np.int32)
            self.table[0] = MAX_ROWS


def as_rows(successors: Rows, num_tokens: int) -> NDArray[np.int32] | None:
    """Return one row of SUCCESSOR_RANKS ids per token, -1 where unknown; None where all are."""
    if len(successors) == 0:
        return None
    if len(successors) != num_tokens:
        raise ValueError(f"successors: {len(successors)} rows for {num_tokens} tokens")
    if isinstance(successors, np.ndarray) and _is_full(successors):
        return successors
    rows = np.full((num_tokens, SUCCESSOR_RANKS), -1, np.int32)
    if isinstance(successors, np.ndarray) and successors.ndim == 2:
        best = _checked_ids("successors", successors[:, :SUCCESSOR_RANKS])
        rows[:, : best.shape[1]] = best
        return rows
    for index, row in enumerate(successors):
        best = np.asarray(row)[:SUCCESSOR_RANKS]
        if best.ndim != 1:
            raise ValueError(f"successors[{index}]: {row!r} is not a row of token ids")
        rows[index, : best.size] = _checked_ids(f"successors[{index}]", best)
    return rows


def _is_full(rows: NDArray[np.int32]) -> bool:
    """Whether they are rows as `as_rows` returns them."""
    return rows.shape[1:] == (SUCCESSOR_RANKS,) and is_run(rows.reshape(-1))


def _checked_ids(name: str, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"{name}: {ids.tolist()} are not token ids")
    if ids.size and (ids.min() < 0 or ids.max() > MAX_TOKEN_ID):
        raise ValueError(f"{name}: {ids.tolist()} are not token ids")
    return ids
