"""Where the rows of one forward pass go in the cache, and what their attention reads."""

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Kernel(enum.Enum):
    """How the attention over packed rows is computed."""

    POSITIONAL = "positional"  # each row by itself, over its positions in their order; on a CPU
    TILED = "tiled"  # the same on a GPU, in Triton
    MASKED = "masked"  # torch's fused kernels with a mask, one padded call for all short segments


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of a pass as the positional kernel reads them; see `verifier.kernels.attention`."""

    rows: NDArray[np.int64]  # [rows, ROW_FIELDS]
    places: NDArray[np.int64]
    tables: NDArray[np.int64]  # pages, one sequence after the other
    runs: tuple[tuple[int, int], ...]  # first and end row of each sequence
    # By (heads that share a key, key heads): the work's pieces, made for the first such layer, and
    # what the kernel is told of the table: addresses of rows, places, tables and pieces; how many
    # pieces.
    pieces: dict[tuple[int, int], tuple[NDArray[np.int64], tuple[int, ...]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class PassBlock:
    """A pass as the tiled kernel reads it: integers on the device, and what they have room for."""

    numbers: Tensor  # int32; see `verifier.kernels.tiled_layout`
    num_rows: int
    num_works: int
    tile_rows: int


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """One sequence's rows in a pass, and the places in the cache that its attention reads."""

    start: int  # first row of the pass
    end: int
    places: Tensor  # [kv_len], in the order of the mask's columns

    @property
    def kv_len(self) -> int:
        """Cached rows that are read, the new ones included."""
        return self.places.shape[0]


@dataclass(frozen=True, slots=True)
class PaddedGroup:
    """The rows of several short segments as one padded call."""

    places: Tensor  # [segments, kv_len] in the cache
    place: Tensor  # [segments, width] row of each cell
    rows: Tensor  # rows that are joined
    cells: Tensor  # the cell of each of them
    starts: frozenset[int]  # first rows of the segments that are joined


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the rows of one forward pass go, and what they read."""

    places: Tensor  # [rows] where in the cache each row is written; for masked attention
    segments: tuple[SegmentRows, ...] = ()  # for masked attention, or a model's own
    window: int = 0  # of sliding-window layers
    table: RowTable | None = None  # for positional attention
    block: PassBlock | None = None  # for tiled attention
    together: PaddedGroup | None = None  # for masked attention
    # Of all layers and of sliding-window layers. The model is handed placeholders for them, whose
    # last dimension tells which it is, because masks change their shape at every step.
    masks: tuple[Tensor, ...] = ()
