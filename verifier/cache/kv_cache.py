"""The KV cache: preallocated slots, one per running sequence, written and compacted in place.

Rows of a draft tree are written side by side after a slot's committed rows; `commit` moves the
accepted ones together. Keys carry their rotary position already, and a node's position is final,
so moving a row needs no recomputation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from verifier.cache.placement import Kernel, Placement


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Shape of one layer's keys and values for one position."""

    num_heads: int
    key_dim: int
    value_dim: int

    def padded_to(self, multiple: int) -> "LayerShape":
        """The same with dimensions that are multiples of a number."""
        key_dim, value_dim = (
            -(-dim // multiple) * multiple for dim in (self.key_dim, self.value_dim)
        )
        return LayerShape(self.num_heads, key_dim, value_dim)


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values: [slots, heads, capacity, dim]."""

    is_compileable = False
    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, owner: "KVCache", keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self.keys = keys
        self.values = values
        self.is_initialized = True
        self.attention_call: Any = None  # kept here by the kernel that reads these very tensors

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Hand the rows [1, heads, rows, dim] on to packed attention, which writes them; a model
        with its own attention gets all that its slot holds."""
        if self.owner.is_packed:
            # A model may let several layers attend to the same keys.
            key_states.slot_layer = self  # type: ignore[attr-defined]
            return key_states, value_states
        self.write(key_states, value_states)
        slot, _, _, kv_len = self.owner.placement.segments[0]
        return self.keys[slot : slot + 1, :, :kv_len], self.values[slot : slot + 1, :, :kv_len]

    def write(self, key_states: Tensor, value_states: Tensor) -> None:
        """Put rows [1, heads, rows, dim] in their places."""
        place = self.owner.placement
        self.keys[place.slots, :, place.indices] = key_states[0].transpose(0, 1)
        self.values[place.slots, :, place.indices] = value_states[0].transpose(0, 1)

    def get_seq_length(self) -> int:
        """Positions and masks are always passed in, so no model needs this."""
        return 0

    def get_max_length(self) -> int:
        """Longest sequence a slot can hold."""
        return int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks are always passed in ready-made."""
        raise AssertionError("a mask was not passed to the model")


class SlotLayers(Cache):
    """All layers as the model's forward knows them."""

    # Compiled code must not depend on which layer it is, or every layer is compiled anew.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Hand the rows to their layer."""
        return super().update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions and masks are always passed in, so no model needs this."""
        return 0


class KVCache:
    """Slots for running sequences. Owns their committed lengths and the free list."""

    def __init__(
        self,
        shapes: list[LayerShape],
        *,
        num_slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        is_packed: bool,
        kernel: Kernel = Kernel.MASKED,
    ) -> None:
        self.num_slots = num_slots
        self.kernel = kernel
        self.capacity = capacity
        self.is_packed = is_packed
        self.placement = Placement(torch.empty(0), torch.empty(0), ())
        # Told before rows move, by the method's name, for caches elsewhere that hold other heads.
        self.on_move: Callable[..., None] = lambda name, *arguments: None
        self._lengths = [0] * num_slots
        self._free = list(range(num_slots))  # least recently used first
        self._storages = _allocate(shapes, num_slots, capacity, dtype, device)
        self.cache = SlotLayers(layers=[SlotLayer(self, k, v) for k, v in self.row_views()])

    @property
    def num_free(self) -> int:
        """Slots that no sequence holds."""
        return len(self._free)

    def allocate(self, slot: int | None = None, *, length: int = 0) -> int:
        """Take a free slot, by default the least recently used; keep its first `length` rows."""
        assert self._free, "allocate without a free slot"
        slot = self._free[0] if slot is None else slot
        self._free.remove(slot)
        self._lengths[slot] = length
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back; its rows stay until it is taken again."""
        assert slot not in self._free, f"slot {slot} is free already"
        self._free.append(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a slot the first rows of another one."""
        self.on_move("copy_rows", source, target, length)
        self.copy_rows(source, target, length)
        self._lengths[target] = length

    def length(self, slot: int) -> int:
        """Committed rows of a slot."""
        return self._lengths[slot]

    def reusable(self, slot: int, length: int) -> int:
        """How many of the slot's first `length` rows another sequence can start from."""
        return length

    def promised(self, length: int, num_prompt: int) -> int:
        """How many of its first `length` rows a prompt that is being read will leave to others."""
        return length

    def num_pending(self, slot: int) -> int:
        """Committed tokens that the slot's next pass runs again."""
        return 0

    def commit(self, slot: int, rows: list[int]) -> None:
        """Keep these rows of the last forward pass (rising, relative to the committed length)."""
        length = self._lengths[slot]
        self._lengths[slot] = length + len(rows)
        first = next((i for i, row in enumerate(rows) if row != i), None)
        if first is None:
            return
        moved = [length + row for row in rows[first:]]
        self.on_move("gather_rows", slot, length + first, moved)
        self.gather_rows(slot, length + first, moved)

    def row_views(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer: [slots, heads, capacity, dim]."""
        pairs = zip(self._storages[::2], self._storages[1::2], strict=True)
        return [layer for keys, values in pairs for layer in zip(keys, values, strict=True)]

    def copy_rows(self, source: int, target: int, length: int) -> None:
        """Move the tensors of `copy`."""
        for storage in self._storages:
            storage[:, target, :, :length] = storage[:, source, :, :length]

    def gather_rows(self, slot: int, start: int, rows: list[int]) -> None:
        """Put these rows of a slot side by side from `start` on."""
        source = torch.tensor(rows)
        for storage in self._storages:
            source = source.to(storage.device)
            # The right-hand side is a gathered copy, so overlapping rows are safe.
            storage[:, slot, :, start : start + len(rows)] = storage[:, slot, :, source]


def _allocate(
    shapes: list[LayerShape],
    num_slots: int,
    capacity: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    """One storage [layers, slots, heads, capacity, dim] per run of equal layers, keys then values.

    Few large storages make compaction one gather instead of two per layer.
    """
    storages = []
    runs: list[list[LayerShape]] = []
    for shape in shapes:
        if runs and runs[-1][0] == shape:
            runs[-1].append(shape)
        else:
            runs.append([shape])
    for run in runs:
        for dim in (run[0].key_dim, run[0].value_dim):
            size = (len(run), num_slots, run[0].num_heads, capacity, dim)
            storages.append(torch.zeros(size, dtype=dtype, device=device))
    return storages
