"""Slots of models that keep a recurrent state, which cannot go back but can be kept and caught up.

A slot keeps the state at its last certain position, the checkpoint, and the accepted tokens after
it, which are pending. A pass runs the pending tokens, the last token and its draft as one chain on
a copy of the checkpoint. Where all of it was right, the copy is the new checkpoint; else what was
accepted is pending, too. States that are convolutions alone remember their inputs, and go back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DummyLayer, LinearAttentionLayer

from verifier.cache.kv_cache import KVCache
from verifier.cache.pages import PAGE
from verifier.cache.placement import Kernel
from verifier.cache.slot_layers import LayerShape, SlotLayer, SlotLayers
from verifier.cache.states import Rows, States, StateShape

MARKS_PER_SLOT = 3  # kept states beside a slot's checkpoint, on average
MARK_EVERY = 1024  # tokens of a prompt between states that are kept


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """What one layer of a model keeps: keys and values, states, both or nothing."""

    rows: LayerShape | None
    states: tuple[StateShape, ...] = ()

    def padded_to(self, multiple: int) -> "ChainLayer":
        """The same with keys and values whose dimensions are multiples of a number."""
        rows = None if self.rows is None else self.rows.padded_to(multiple)
        return ChainLayer(rows, self.states)


def state_bytes(layers: list[ChainLayer]) -> int:
    """What a slot's states take: the checkpoint, the copy that a pass runs on, and marks."""
    places = 2 + MARKS_PER_SLOT
    return places * sum(state.num_bytes for layer in layers for state in layer.states)


class StateSlotLayer(LinearAttentionLayer, SlotLayer):  # type: ignore[override]
    """A layer with keys and values and a state."""

    is_compileable = False

    def __init__(self, owner: KVCache, keys: Tensor, values: Tensor, num_states: int) -> None:
        SlotLayer.__init__(self, owner, keys, values)
        LinearAttentionLayer.__init__(self, number_of_states=num_states)


@dataclass(slots=True)
class _Run:
    """The last pass of a slot, until it is committed."""

    token_ids: tuple[int, ...]  # without those that were pending
    is_padded: bool
    is_marked: bool
    had_state: bool
    recorded: list[Tensor] = field(default_factory=list)  # inputs of its convolutions


class ChainSlots(KVCache):
    """Slots with checkpoints."""

    def __init__(
        self,
        layers: list[ChainLayer],
        *,
        num_slots: int,
        capacity: int,
        num_pages: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
        is_packed: bool,
        kernel: Kernel = Kernel.MASKED,
    ) -> None:
        super().__init__(
            [layer.rows for layer in layers if layer.rows is not None],
            num_slots=num_slots,
            capacity=capacity,
            num_pages=num_pages,
            dtype=dtype,
            device=device,
            is_packed=is_packed,
            kernel=kernel,
        )
        shapes = [state for layer in layers for state in layer.states]
        num_marks = MARKS_PER_SLOT * num_slots
        self._states = States(shapes, 2 * num_slots + num_marks, device)
        self.goes_back = all(shape.is_convolution for shape in shapes)
        self._checkpoints = list(range(num_slots))  # places of states
        self._spares = list(range(num_slots, 2 * num_slots))
        self._free_marks = list(range(2 * num_slots, 2 * num_slots + num_marks))
        # (page, rows of it): place, oldest use first
        self._marks: dict[tuple[int, int], int] = {}
        self._pending: list[list[int]] = [[] for _ in range(num_slots)]
        self._runs: dict[int, _Run] = {}
        self._joined: Rows | None = None  # the states that a pass of several slots works on
        self._state_layers: list[tuple[Any, tuple[StateShape, ...]]] = []
        self.cache = SlotLayers(layers=list(self._make_layers(layers)))

    def num_pending(self, slot: int) -> int:
        """Committed tokens that the slot's next pass runs again."""
        return len(self._pending[slot])

    def begin(
        self, slot: int, token_ids: tuple[int, ...], *, is_padded: bool, is_marked: bool
    ) -> tuple[int, ...]:
        """Note that a pass runs these tokens; return the pending ones before them.

        One that `is_padded` runs a row more, and leaves no state to keep. `is_marked`: others may
        start from its end.
        """
        pending = tuple(self._pending[slot])
        had_state = self.has_state(slot)
        self._runs[slot] = _Run(token_ids, is_padded, is_marked, had_state)
        return pending

    def has_state(self, slot: int) -> bool:
        """Whether the slot's next pass goes on from a state."""
        return self._lengths[slot] > len(self._pending[slot])

    def show(self, slots: Sequence[int]) -> None:
        """Let the layers work on the states of these slots, which all have one or none."""
        had_state = self._runs[slots[0]].had_state
        places = [self._checkpoints[slot] for slot in slots]
        if not self.goes_back:
            spares = [self._spares[slot] for slot in slots]
            for place, spare in zip(places, spares, strict=True) if had_state else ():
                self._states.copy(place, spare)
            places = spares
        self._joined = self._states.gather(places) if len(places) > 1 else None
        views = (
            self._states.views(places[0])
            if self._joined is None
            else self._states.cut(self._joined)
        )
        self._show(views, had_state)

    def end(self, slots: Sequence[int]) -> None:
        """Take what the pass left in the layers, before other slots' pass."""
        if self.goes_back:
            left = [
                layer.conv_states[state.index]
                for layer, states in self._state_layers
                for state in states
            ]
            for index, slot in enumerate(slots):
                self._runs[slot].recorded = [each[index : index + 1] for each in left]
        elif self._joined is not None:
            self._states.scatter(self._joined, [self._spares[slot] for slot in slots])

    def commit(self, slot: int, rows: list[int]) -> None:
        """Keep the first rows of the last pass."""
        assert rows == list(range(len(rows))), "the rows of a chain are kept from the first on"
        run = self._runs.pop(slot)
        super().commit(slot, rows)
        if self.goes_back:
            self._states.roll(self._checkpoints[slot], run.recorded, run.had_state, len(rows))
        elif len(rows) == len(run.token_ids) and not run.is_padded:
            pair = self._spares[slot], self._checkpoints[slot]
            self._checkpoints[slot], self._spares[slot] = pair
            self._pending[slot].clear()
        else:
            self._pending[slot] += run.token_ids[: len(rows)]
        if run.is_marked and not self._pending[slot]:
            self._mark(slot, self._lengths[slot])

    def allocate(self) -> int:
        """Take a free slot, without pages and without a state."""
        slot = super().allocate()
        self._pending[slot].clear()
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back; its state is kept where its rows are."""
        was_committed = self._runs.pop(slot, None) is None
        length = self.settled(slot)
        if was_committed and length and self.pages.is_known(_key(self._tables[slot], length)[0]):
            self._mark(slot, length)
        super().free(slot)

    def reserve(self, slot: int, num_rows: int) -> bool:
        """Give a slot the pages for so many rows, and for one that pads a pass."""
        return super().reserve(slot, num_rows + 1)

    def settled(self, slot: int) -> int:
        """Where the slot's checkpoint stands: pending rows are written again."""
        return self._lengths[slot] - len(self._pending[slot])

    def reusable(self, pages: Sequence[int], length: int) -> int:
        """The last position up to `length` whose state is kept."""
        starts = {page: PAGE * index for index, page in enumerate(pages)}
        known = [starts[page] + rows for page, rows in self._marks if page in starts]
        return max((position for position in known if position <= length), default=0)

    def promised(self, length: int, num_prompt: int) -> int:
        """The last position up to `length` at which the state of a prompt will be kept."""
        return num_prompt - 1 if length >= num_prompt - 1 else length - length % MARK_EVERY

    def share(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Let a slot begin with the first rows of these pages, and the state after them."""
        super().share(slot, pages, length)
        self._pending[slot].clear()
        if self._lengths[slot] < length:  # there was no page for the last rows
            super().share(slot, (), 0)
        elif length:
            key = _key(pages, length)
            place = self._marks.pop(key)
            self._marks[key] = place  # used last
            self._states.copy(place, self._checkpoints[slot])

    def _mark(self, slot: int, position: int) -> None:
        """Keep the checkpoint, which stands there, in the place of the state used longest ago."""
        key = _key(self._tables[slot], position)
        if key in self._marks:
            return
        if not self._free_marks:
            self._free_marks.append(self._marks.pop(next(iter(self._marks))))
        place = self._free_marks.pop()
        self._states.copy(self._checkpoints[slot], place)
        self._marks[key] = place

    def _take_page(self) -> int:
        """A page's states are those of the rows that it held."""
        page = super()._take_page()
        for key in [key for key in self._marks if key[0] == page]:
            self._free_marks.append(self._marks.pop(key))
        return page

    def _make_layers(self, layers: list[ChainLayer]) -> Iterator[Any]:
        """The layers as the model's forward knows them."""
        rows = iter(self.row_views())
        for layer in layers:
            made: Any = DummyLayer()
            num_states = 1 + max((state.index for state in layer.states), default=0)
            if layer.rows is not None and layer.states:
                made = StateSlotLayer(self, *next(rows), num_states)
            elif layer.rows is not None:
                made = SlotLayer(self, *next(rows))
            elif layer.states:
                made = LinearAttentionLayer(number_of_states=num_states)
            if layer.states:
                self._prepare(made, layer.states)
            yield made

    def _prepare(self, layer: Any, states: tuple[StateShape, ...]) -> None:
        """Let a layer take its states for its own."""
        self._state_layers.append((layer, states))
        layer.record_past = self.goes_back
        for state in states:
            getattr(layer, f"is_{state.kind}_initialized")[state.index] = True
            if state.is_convolution:
                layer.conv_kernel_size[state.index] = state.shape[-1]

    def _show(self, views: Sequence[Tensor], had_state: bool) -> None:
        """Let the layers work on these states."""
        left = iter(views)
        for layer, states in self._state_layers:
            for state in states:
                getattr(layer, state.kind)[state.index] = next(left)
            layer.has_previous_state = dict.fromkeys(layer.has_previous_state, had_state)


def _key(pages: Sequence[int], position: int) -> tuple[int, int]:
    """What the state after so many rows of these pages is kept under."""
    return pages[(position - 1) // PAGE], (position - 1) % PAGE + 1
