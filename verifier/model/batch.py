"""A batch: the rows of all sequences in one forward pass, packed one after the other.

Every row attends to its own sequence's committed rows and to its ancestors among the new rows.
The mask's columns are indices inside the row's own slot; sliding windows are cut by *position*,
because siblings of a tree share one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verifier.speculation.tree import DraftTree

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's rows: a run of the prompt, or the last committed token and its draft."""

    slot: int
    kv_len: int  # rows committed before
    token_ids: tuple[int, ...]
    tree: DraftTree | None  # None: the rows are a chain
    needs_logits: bool

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
        """Rows whose logits are wanted: all of a draft, the last of a prompt."""
        if not self.needs_logits:
            return 0
        return 1 if self.tree is None else self.num_rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays for one forward pass over all segments' rows."""

    segments: tuple[Segment, ...]
    token_ids: IntArray  # [rows]
    positions: IntArray  # [rows]
    slots: IntArray  # [rows]
    indices: IntArray  # [rows] index inside the slot
    mask: BoolArray  # [rows, kv_len]
    window_mask: BoolArray | None  # [rows, kv_len], the mask of sliding-window layers
    logit_rows: IntArray  # rows whose logits are wanted


def prompt_segment(slot: int, kv_len: int, token_ids: tuple[int, ...], *, is_last: bool) -> Segment:
    """A run of the prompt; only its last run needs logits, and only of its last row."""
    return Segment(slot, kv_len, token_ids, None, is_last)


def draft_segment(slot: int, kv_len: int, root: int, tree: DraftTree) -> Segment:
    """The last committed token, whose row is not in the cache yet, and the draft below it."""
    return Segment(slot, kv_len, (root, *tree.token_ids), tree, True)


def make_batch(segments: list[Segment], window: int | None) -> Batch:
    """Lay out the rows; `window` is the width of the sliding-window layers, if there are any."""
    num_rows = sum(segment.num_rows for segment in segments)
    kv_len = max(segment.kv_span for segment in segments)
    mask = np.zeros((num_rows, kv_len), bool)
    window_mask = None if window is None else np.zeros((num_rows, kv_len), bool)
    positions, logit_rows = [], []
    start = 0
    for segment in segments:
        offsets, ancestors = _layout(segment)
        end, new_end = start + segment.num_rows, segment.kv_len + segment.num_rows
        mask[start:end, : segment.kv_len] = True
        mask[start:end, segment.kv_len : new_end] = ancestors
        own_positions = segment.kv_len + offsets
        positions.append(own_positions)
        if window_mask is not None and window is not None:
            columns = np.concatenate([np.arange(segment.kv_len), own_positions])
            near = own_positions[:, None] - columns[None, :] < window
            window_mask[start:end, :new_end] = mask[start:end, :new_end] & near
        if segment.needs_logits:
            logit_rows.append(np.arange(end - segment.num_logit_rows, end))
        start = end
    return Batch(
        segments=tuple(segments),
        token_ids=np.concatenate([np.array(s.token_ids, np.int64) for s in segments]),
        positions=np.concatenate(positions),
        slots=np.repeat([s.slot for s in segments], [s.num_rows for s in segments]),
        indices=np.concatenate([s.kv_len + np.arange(s.num_rows) for s in segments]),
        mask=mask,
        window_mask=window_mask,
        logit_rows=np.concatenate([np.empty(0, np.int64), *logit_rows]),
    )


def pad_batch(batch: Batch, num_rows: int, index: int) -> Batch:
    """Add rows up to `num_rows`, which write to a place of slot 0 that nobody reads."""
    count = num_rows - len(batch.token_ids)
    if not count:
        return batch
    return replace(
        batch,
        token_ids=np.pad(batch.token_ids, (0, count)),
        positions=np.pad(batch.positions, (0, count)),
        slots=np.pad(batch.slots, (0, count)),
        indices=np.pad(batch.indices, (0, count), constant_values=index),
    )


def _layout(segment: Segment) -> tuple[IntArray, BoolArray]:
    """Depth of each row below the first, and which rows each one may attend to."""
    num_rows = segment.num_rows
    if segment.tree is None:
        return np.arange(num_rows), np.tri(num_rows, dtype=bool)
    offsets = np.zeros(num_rows, np.int64)
    ancestors = np.eye(num_rows, dtype=bool)
    for node, parent in enumerate(segment.tree.parents):
        offsets[node + 1] = offsets[parent + 1] + 1
        ancestors[node + 1] |= ancestors[parent + 1]
    return offsets, ancestors
