"""A batch: the rows of all sequences in one forward pass, packed one after the other.

Every row attends to its own sequence's committed rows and to its ancestors among the new rows.
The mask's columns are indices inside the row's own sequence, whose pages lie anywhere in the cache;
sliding windows are cut by *position*, because siblings of a tree share one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verifier.cache.kv_cache import places_of
from verifier.cache.pages import num_pages_of
from verifier.cache.placement import RowTable
from verifier.speculation.tree import DraftTree

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Segment:
    """One sequence's rows: a run of the prompt, or the last committed token and its draft."""

    slot: int
    kv_len: int  # rows committed before
    token_ids: tuple[int, ...]
    tree: DraftTree | None  # None: the rows are a chain
    needs_logits: bool
    is_scored: bool = False  # the logits of all rows of a prompt's run are wanted
    is_marked: bool = False  # a state at its end is kept, for sequences that begin the same

    @property
    def kv_span(self) -> int:
        """Cached rows that attention reads, the new ones included."""
        return self.kv_len + self.num_rows

    @property
    def num_rows(self) -> int:
        """Rows of the forward pass."""
        return len(self.token_ids)

    @property
    def num_logit_rows(self) -> int:
        """Rows whose logits are wanted: all of a draft, mostly but the last of a prompt."""
        if not self.needs_logits:
            return 0
        return 1 if self.tree is None and not self.is_scored else self.num_rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays for one forward pass over all segments' rows."""

    segments: tuple[Segment, ...]
    token_ids: IntArray  # [rows]
    positions: IntArray  # [rows]
    indices: IntArray  # [rows] index inside the sequence
    logit_rows: IntArray  # rows whose logits are wanted
    num_chains: int = 1  # runs of as many rows each, one below the other; logit_rows count in them


def prompt_segment(
    slot: int,
    kv_len: int,
    token_ids: tuple[int, ...],
    *,
    is_last: bool,
    is_marked: bool = False,
) -> Segment:
    """A run of the prompt; only its last run needs logits, and only of its last row."""
    return Segment(slot, kv_len, token_ids, None, is_last, is_marked=is_marked)


def scored_segment(slot: int, kv_len: int, token_ids: tuple[int, ...]) -> Segment:
    """A run of a prompt whose tokens' probabilities are wanted."""
    return Segment(slot, kv_len, token_ids, None, needs_logits=True, is_scored=True)


def draft_segment(slot: int, kv_len: int, root: int, tree: DraftTree) -> Segment:
    """The last committed token, whose row is not in the cache yet, and the draft below it."""
    return Segment(slot, kv_len, (root, *tree.token_ids), tree, True)


def make_batch(segments: list[Segment]) -> Batch:
    """Lay out the rows."""
    positions, logit_rows = [], []
    start = 0
    for segment in segments:
        positions.append(segment.kv_len + _depths(segment))
        end = start + segment.num_rows
        if segment.needs_logits:
            logit_rows.append(np.arange(end - segment.num_logit_rows, end))
        start = end
    return Batch(
        segments=tuple(segments),
        token_ids=np.concatenate([np.array(s.token_ids, np.int64) for s in segments]),
        positions=np.concatenate(positions),
        indices=np.concatenate([s.kv_len + np.arange(s.num_rows) for s in segments]),
        logit_rows=np.concatenate([np.empty(0, np.int64), *logit_rows]),
    )


def make_chains(
    segments: Sequence[Segment], pendings: Sequence[tuple[int, ...]], *, is_padded: bool
) -> Batch:
    """The rows of segments as chains that begin with tokens before them, and are equally long.

    Those that are `is_padded` end with a row that nothing reads. Logits are those of as many last
    rows as the segment that wants most of them has.
    """
    chains = []
    for segment, pending in zip(segments, pendings, strict=True):
        token_ids = (*pending, *segment.token_ids)
        padding = token_ids[-1:] if is_padded else ()
        start = segment.kv_len - len(pending)
        chains.append(Segment(segment.slot, start, token_ids + padding, None, False))
    end = chains[0].num_rows - is_padded
    first = end - max(segment.num_logit_rows for segment in segments)
    rows = np.arange(first, end)
    return replace(make_batch(chains), logit_rows=rows, num_chains=len(chains))


Tables = Sequence[Sequence[int]]  # the pages of each segment's sequence


def make_places(batch: Batch, tables: Tables) -> IntArray:
    """Where in the cache each row is written."""
    ends = np.cumsum([segment.num_rows for segment in batch.segments])[:-1]
    indices = np.split(batch.indices, ends)
    return np.concatenate([places_of(t, own) for t, own in zip(tables, indices, strict=True)])


def make_table(batch: Batch, tables: Tables) -> RowTable:
    """Where each row finds the positions that it attends to."""
    settled: list[IntArray] = []
    starts: list[IntArray] = []
    places: list[int] = []
    runs: list[tuple[int, int]] = []
    start = 0
    for segment, table in zip(batch.segments, tables, strict=True):
        ends = segment.kv_len + 1 + np.arange(segment.num_rows)
        if segment.tree is None:
            settled.append(ends)
            starts.append(np.zeros_like(ends))
        else:
            first = len(places)
            own_settled, own_starts = _tree_places(segment, places)
            places[first:] = places_of(table, np.array(places[first:], np.int64)).tolist()
            settled.append(np.array(own_settled))
            starts.append(np.array(own_starts))
        runs.append((start, start + segment.num_rows))
        start += segment.num_rows
    pages = [
        table[: num_pages_of(s.kv_span)] for s, table in zip(batch.segments, tables, strict=True)
    ]
    firsts = np.cumsum([0, *map(len, pages)])[:-1]
    columns = (
        np.repeat(firsts, [segment.num_rows for segment in batch.segments]),
        batch.positions,
        *map(np.concatenate, (settled, starts)),
        make_places(batch, tables),
    )
    rows = np.stack([np.asarray(column, np.int64) for column in columns], axis=1)
    flat = np.array([page for each in pages for page in each], np.int64)
    return RowTable(rows, np.array(places or [0], np.int64), flat, tuple(runs))


def _tree_places(segment: Segment, places: list[int]) -> tuple[list[int], list[int]]:
    """How many positions of each row are settled, and where its other places begin.

    The others' indices are added to `places`: of the row's path, from the first that stands
    elsewhere on.
    """
    assert segment.tree is not None
    kv_len = segment.kv_len
    settled, starts = [kv_len + 1], [0]
    paths: list[list[int]] = [[]]
    for node, parent in enumerate(segment.tree.parents):
        index, before, path = kv_len + 1 + node, settled[parent + 1], paths[parent + 1]
        is_settled = not path and index == before
        settled.append(before + is_settled)
        paths.append(path if is_settled else [*path, index])
        starts.append(len(places))
        places += paths[-1]
    return settled, starts


def make_masks(batch: Batch, window: int | None) -> list[BoolArray]:
    """Which indices of its sequence each row may attend to, [rows, kv_len]; with a `window`, also
    which it may in sliding-window layers."""
    kv_len = max(segment.kv_span for segment in batch.segments)
    mask = np.zeros((len(batch.token_ids), kv_len), bool)
    window_mask = np.zeros_like(mask)
    start = 0
    for segment in batch.segments:
        end, new_end = start + segment.num_rows, segment.kv_len + segment.num_rows
        mask[start:end, : segment.kv_len] = True
        mask[start:end, segment.kv_len : new_end] = _ancestors(segment)
        if window is not None:
            own = batch.positions[start:end]
            columns = np.concatenate([np.arange(segment.kv_len), own])
            near = own[:, None] - columns[None, :] < window
            window_mask[start:end, :new_end] = mask[start:end, :new_end] & near
        start = end
    return [mask] if window is None else [mask, window_mask]


def _depths(segment: Segment) -> IntArray:
    """Depth of each row below the first."""
    if segment.tree is None:
        return np.arange(segment.num_rows)
    depths = [0]
    for parent in segment.tree.parents:
        depths.append(depths[parent + 1] + 1)
    return np.array(depths)


def _ancestors(segment: Segment) -> BoolArray:
    """Which of the segment's rows each of them may attend to."""
    if segment.tree is None:
        return np.tri(segment.num_rows, dtype=bool)
    ancestors = np.eye(segment.num_rows, dtype=bool)
    for node, parent in enumerate(segment.tree.parents):
        ancestors[node + 1] |= ancestors[parent + 1]
    return ancestors
