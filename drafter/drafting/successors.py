"""The target model's own recent top next tokens, per last token: drafts where nothing matches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.candidates import SUCCESSOR_MIX, SUCCESSOR_SHIFT
from drafter.kernels.mixing import SUCCESSOR_RANKS
from drafter.trie.token_run import MAX_TOKEN_ID

MIN_ROWS, MAX_ROWS = 1 << 9, 1 << 15
_ROW_LEN = 1 + SUCCESSOR_RANKS
# Rows fall on one another's places; with so few of them taken, hardly ever.
_MAX_SHARE = 1 / 8
_GROWTH = 4
_FOR_EVER = 1 << 62
_EMPTY = np.zeros(1, np.int32)
Rows = Sequence[Sequence[int]] | NDArray[np.int32]


class Successors:
    """A table that grows with use, within a bound; a row makes way for a newer one on its place."""

    def __init__(self) -> None:
        self.table = _EMPTY
        self._room = 0  # so many rows may come before the table has to be looked at

    @property
    def num_bytes(self) -> int:
        """Memory the table takes; nothing before the first feedback."""
        return self.table.nbytes if len(self.table) > 1 else 0

    def reserve(self, num_rows: int) -> None:
        """Make room for that many more rows."""
        self._room -= num_rows
        if self._room >= 0:
            return
        held = self.rows()
        size = max(MIN_ROWS, int(self.table[0]))
        while size < MAX_ROWS and len(held) + num_rows > _MAX_SHARE * size:
            size = min(_GROWTH * size, MAX_ROWS)
        if size > self.table[0]:
            self._rebuild(held, size)
        self._room = int(_MAX_SHARE * size) - len(held) - num_rows
        if size == MAX_ROWS:
            self._room = _FOR_EVER

    def rows(self) -> NDArray[np.int32]:
        """Return the rows that are held: a token, then what followed it, the best first."""
        rows = self.table[1:].reshape(-1, _ROW_LEN)
        return rows[rows[:, 0] >= 0]

    def _rebuild(self, rows: NDArray[np.int32], size: int) -> None:
        self.table = np.full(1 + size * _ROW_LEN, -1, np.int32)
        self.table[0] = size
        self.table[1:].reshape(-1, _ROW_LEN)[places(rows[:, 0], size)] = rows


def places(tokens: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Return where the rows of tokens stand in a table of that size, as the kernels find them."""
    mixed = (tokens.astype(np.int64) * np.int64(SUCCESSOR_MIX)) >> SUCCESSOR_SHIFT
    return np.asarray(mixed & (size - 1), np.int64)


def as_rows(successors: Rows, num_tokens: int) -> NDArray[np.int32] | None:
    """Return one row of SUCCESSOR_RANKS ids per token, -1 where unknown; None where all are."""
    if len(successors) == 0:
        return None
    if len(successors) != num_tokens:
        raise ValueError(f"successors: {len(successors)} rows for {num_tokens} tokens")
    if isinstance(successors, np.ndarray) and successors.ndim == 2:
        return full_rows(_checked_ids("successors", successors))
    rows = np.full((num_tokens, SUCCESSOR_RANKS), -1, np.int32)
    for index, row in enumerate(successors):
        best = np.asarray(row)[:SUCCESSOR_RANKS]
        if best.ndim != 1:
            raise ValueError(f"successors[{index}]: {row!r} is not a row of token ids")
        rows[index, : best.size] = _checked_ids(f"successors[{index}]", best)
    return rows


def full_rows(successors: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return rows of token ids as the kernels take them: cut, or filled up with -1."""
    num_tokens, width = successors.shape
    if width == SUCCESSOR_RANKS and successors.dtype == np.int32:
        return successors
    rows = np.full((num_tokens, SUCCESSOR_RANKS), -1, np.int32)
    rows[:, :width] = successors[:, :SUCCESSOR_RANKS]
    return rows


def _checked_ids(name: str, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"{name}: {ids.tolist()} are not token ids")
    if ids.size and (ids.min() < 0 or ids.max() > MAX_TOKEN_ID):
        raise ValueError(f"{name}: {ids.tolist()} are not token ids")
    return ids
