"""Where the rows of one forward pass go in the cache, and what their attention reads."""

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Kernel(enum.Enum):
    """How the attention over packed rows is computed."""

    POSITIONAL = "positional"  # each row by itself, over its positions in their order; on a CPU
    MASKED = "masked"  # torch's fused kernels with a mask, one padded call for all short segments


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of a pass as the positional kernel reads them; see `verifier.kernels.attention`."""

    rows: NDArray[np.int64]  # [rows, ROW_FIELDS]
    places: NDArray[np.int64]
    runs: tuple[tuple[int, int], ...]  # first and end row of each sequence
    # By (heads that share a key, key heads): the work's pieces, made for the first such layer, and
    # what the kernel is told of the table: addresses of rows, places and pieces; how many pieces.
    pieces: dict[tuple[int, int], tuple[NDArray[np.int64], tuple[int, int, int, int]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class PaddedGroup:
    """The rows of several short segments as one padded call over a run of slots."""

    slots: slice
    kv_len: int
    place: Tensor  # [slots, width] row of each cell
    rows: Tensor  # rows that are joined
    cells: Tensor  # the cell of each of them
    starts: frozenset[int]  # first rows of the segments that are joined


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the rows of one forward pass go, and which slot each run of rows belongs to."""

    slots: Tensor  # [rows] slot of each row
    indices: Tensor  # [rows] index of each row inside its slot
    segments: tuple[tuple[int, int, int, int], ...]  # (slot, first row, end row, kv_len)
    window: int = 0  # of sliding-window layers
    table: RowTable | None = None  # for positional attention
    together: PaddedGroup | None = None  # for masked attention
    # Of all layers and of sliding-window layers. The model is handed placeholders for them, whose
    # last dimension tells which it is, because masks change their shape at every step.
    masks: tuple[Tensor, ...] = ()
