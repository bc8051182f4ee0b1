"""Room for recurrent and convolutional states: places side by side, copied whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Rows = dict[torch.dtype, Tensor]  # all states of some places, by type: [places, numbers]


@dataclass(frozen=True, slots=True)
class StateShape:
    """One state of a layer."""

    kind: str  # the attribute of transformers' layer: conv_states or recurrent_states
    index: int  # which of several such states
    shape: tuple[int, ...]  # [1, ...], of one sequence
    dtype: torch.dtype

    @property
    def is_convolution(self) -> bool:
        """Whether it holds the last inputs, and nothing that was computed from earlier ones."""
        return self.kind == "conv_states"

    @property
    def num_bytes(self) -> int:
        """What one place for it takes."""
        return prod(self.shape) * self.dtype.itemsize


class States:
    """All states of a model, as often as there are places."""

    def __init__(self, shapes: Sequence[StateShape], num_places: int, device: torch.device) -> None:
        self._shapes = shapes
        # One buffer for each type, so that a place is copied by one operation or two.
        self._buffers = {
            dtype: torch.zeros(
                num_places,
                sum(prod(s.shape) for s in shapes if s.dtype == dtype),
                dtype=dtype,
                device=device,
            )
            for dtype in {shape.dtype for shape in shapes}
        }
        self._views: dict[int, list[Tensor]] = {}

    def copy(self, source: int, target: int) -> None:
        """Copy all states of a place."""
        for buffer in self._buffers.values():
            buffer[target] = buffer[source]

    def views(self, place: int) -> list[Tensor]:
        """The states of a place, in the order of the shapes."""
        if place not in self._views:
            rows = {dtype: buffer[place : place + 1] for dtype, buffer in self._buffers.items()}
            self._views[place] = self.cut(rows)
        return self._views[place]

    def gather(self, places: Sequence[int]) -> Rows:
        """A copy of the states of several places."""
        return {dtype: buffer[list(places)] for dtype, buffer in self._buffers.items()}

    def scatter(self, rows: Rows, places: Sequence[int]) -> None:
        """Put such copies back."""
        for dtype, own in rows.items():
            self._buffers[dtype][list(places)] = own

    def roll(self, place: int, recorded: Sequence[Tensor], had_state: bool, num_rows: int) -> None:
        """Let convolutions stand after `num_rows` of the inputs that a pass recorded.

        With a state before it, a record begins with the state.
        """
        for view, record in zip(self.views(place), recorded, strict=True):
            width = view.shape[-1]
            end = num_rows + width if had_state else num_rows
            kept = record[..., max(end - width, 0) : end].clone()
            view[..., : width - kept.shape[-1]] = 0
            view[..., width - kept.shape[-1] :] = kept

    def cut(self, rows: Rows) -> list[Tensor]:
        """The states [places, …] in such rows, in the order of the shapes."""
        starts = dict.fromkeys(rows, 0)
        views = []
        for shape in self._shapes:
            start, size, own = starts[shape.dtype], prod(shape.shape), rows[shape.dtype]
            views.append(own[:, start : start + size].view(len(own), *shape.shape[1:]))
            starts[shape.dtype] += size
        return views
