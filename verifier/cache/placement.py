"""Where the rows of one forward pass go in the cache, and what their attention reads."""

import enum
from dataclasses import dataclass

from torch import Tensor


class Kernel(enum.Enum):
    """How the attention over packed rows is computed."""

    SDPA = "sdpa"  # torch's fused kernels, a call for each sequence
    BATCHED = "batched"  # the same, one padded call for all decoding sequences
    EAGER = "eager"  # plain products, a call for each sequence


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
    together: PaddedGroup | None = None
    # Masks of all layers and of sliding-window layers, where the model was handed placeholders for
    # them, because shapes that change at every step do not go through compiled code.
    masks: tuple[Tensor, ...] = ()
