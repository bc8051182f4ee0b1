"""Where the rows of one forward pass go in the cache, and what their attention reads."""

import enum
from dataclasses import dataclass

import torch
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
    # Masks of all layers and of sliding-window layers. The model is handed placeholders for them,
    # because shapes that change at every step do not go through compiled code.
    masks: tuple[Tensor, ...] = ()

    def mask(self, handed: Tensor) -> Tensor:
        """The mask that the model was handed, or a placeholder for."""
        return self.masks[handed.shape[-1] - 1] if self.masks else handed


def mask_placeholder(kind: int, device: torch.device) -> Tensor:
    """What stands for the mask of a kind: 0 of all layers, 1 of sliding-window layers."""
    return torch.ones(1, 1, 1, 1 + kind, dtype=torch.bool, device=device)
