"""A pass as one block of integers, for the kernels of a GPU; `verifier.kernels.tiled_layout` says
what stands where."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verifier.cache.placement import RowTable
from verifier.kernels import tiled_layout as layout

Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HostBlock:
    """A pass's block before it is on the device."""

    numbers: Integers
    num_rows: int  # that the pass is padded to
    num_works: int  # pieces of work


def make_block(
    table: RowTable, token_ids: NDArray[np.int64], *, tile_rows: int, num_rows: int
) -> HostBlock:
    """Lay out a pass that is padded to `num_rows`; its tiles have at most `tile_rows` rows."""
    firsts, counts = _tiles(table.runs, tile_rows)
    lasts = np.maximum.reduceat(table.rows[:, 1], firsts)
    num_splits = lasts // layout.SPAN + 1
    starts = np.cumsum(num_splits) - num_splits  # each tile's first piece of work
    num_works = int(num_splits.sum())
    tile = np.repeat(np.arange(len(firsts)), num_splits)
    works = np.zeros((num_works, layout.WORK_FIELDS), np.int32)
    works[:, 0], works[:, 1] = firsts[tile], counts[tile]
    works[:, 2] = np.arange(num_works) - starts[tile]
    rows = np.zeros((num_rows, layout.ROW_FIELDS), np.int32)
    own = rows[: len(table.rows)]
    own[:, : table.rows.shape[1]] = table.rows
    tile = np.repeat(np.arange(len(firsts)), counts)  # of each row
    own[:, layout.WORK_AT] = starts[tile]
    own[:, layout.TILE_ROW] = np.arange(len(own)) - firsts[tile]
    own[:, layout.TOKEN] = token_ids
    header = np.zeros(layout.HEADER, np.int32)
    header[layout.NUM_ROWS], header[layout.NUM_WORKS] = len(own), num_works
    header[layout.WORKS_AT] = layout.HEADER + rows.size
    header[layout.PLACES_AT] = header[layout.WORKS_AT] + works.size
    header[layout.PAGES_AT] = header[layout.PLACES_AT] + len(table.places)
    parts = (header, rows.ravel(), works.ravel(), table.places, table.tables)
    return HostBlock(np.concatenate(parts, dtype=np.int32, casting="unsafe"), num_rows, num_works)


def _tiles(
    runs: tuple[tuple[int, int], ...], tile_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row and the number of rows of each tile, which holds rows of one sequence."""
    firsts = np.concatenate([np.arange(start, end, tile_rows) for start, end in runs])
    ends = np.concatenate([np.full(-(-(end - start) // tile_rows), end) for start, end in runs])
    return firsts, np.minimum(ends - firsts, tile_rows)
