"""The cache as a model's forward knows it: layers that hand new keys and values on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from verifier.kernels.handles import Handles

if TYPE_CHECKING:
    from verifier.cache.kv_cache import KVCache


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
    """One layer's keys and values: [heads, places, dim], PAGE places for each page."""

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
        self.handle = LAYERS.give(self)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Hand the rows [chains, heads, rows, dim] on to packed attention, which writes them; a
        model with its own attention gets all that its slot holds."""
        if self.owner.is_packed:
            # A model may let several layers attend to the same keys.
            key_states.slot_layer = self  # type: ignore[attr-defined]
            return key_states, value_states
        self.write(key_states, value_states)
        places = self.owner.placement.segments[0].places
        return self.keys[:, places][None], self.values[:, places][None]

    def write(self, key_states: Tensor, value_states: Tensor) -> None:
        """Put rows [1, heads, rows, dim] in their places."""
        places = self.owner.placement.places
        self.keys[:, places] = key_states[0]
        self.values[:, places] = value_states[0]

    def get_seq_length(self) -> int:
        """Positions and masks are always passed in, so no model needs this."""
        return 0

    def get_max_length(self) -> int:
        """Longest sequence that the cache can hold."""
        return self.owner.capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks are always passed in ready-made."""
        raise AssertionError("a mask was not passed to the model")


LAYERS: Handles[SlotLayer] = Handles()


class SlotLayers(Cache):
    """All layers as the model's forward knows them."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int | Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Hand the rows to their layer, which may be named by its handle.

        A forward that is traced only notes which layer it is, for the attention.
        """
        if torch.compiler.is_compiling():
            layer: Any = None if isinstance(layer_idx, Tensor) else self.layers[layer_idx]
            handle = layer_idx if layer is None else layer.handle
            # A tensor of our own, since not every one may be given attributes while it is traced.
            keys = key_states.view_as(key_states)
            keys.slot_handle = handle  # type: ignore[attr-defined]
            return keys, value_states
        if isinstance(layer_idx, Tensor):
            return LAYERS[layer_idx].update(key_states, value_states)
        return super().update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions and masks are always passed in, so no model needs this."""
        return 0
