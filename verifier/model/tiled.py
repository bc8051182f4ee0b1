"""Packed attention and products on a GPU by the kernels in Triton, which only GPUs have."""

import torch
from torch import Tensor

from verifier.cache.slot_layers import SlotLayer
from verifier.kernels import tiled_attention, tiled_product
from verifier.model.packed_weight import PRODUCTS, Product


def attend_tiled(
    layer: SlotLayer,
    query: Tensor,  # [1, heads, rows, dim]
    key: Tensor,  # [1, kv_heads, rows, dim]
    value: Tensor,  # [1, kv_heads, rows, value_dim]
    has_window: bool,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,  # [heads]
) -> Tensor:
    """Write the pass's keys and values; return what its rows read, [rows, heads, value_dim]."""
    place = layer.owner.placement
    block = place.block
    assert block is not None
    table = block.numbers
    new_keys, new_values = _dense(key[0]), _dense(value[0])
    tiled_attention.store(layer.keys, layer.values, new_keys, new_values, table)
    return tiled_attention.attend(
        _dense(query[0]).to(layer.keys.dtype),
        layer.keys,
        layer.values,
        table,
        block.num_works,
        block.tile_rows,
        scale=scaling,
        cap=softcap or 0.0,
        window=place.window if has_window else 0,
        sinks=sinks,
    ).to(query.dtype)


def _dense(x: Tensor) -> Tensor:
    """[heads, rows, dim] whose last numbers lie side by side."""
    return x if x.stride(2) == 1 else x.contiguous()


class TiledProduct(Product):
    """Rows times one weight [outputs, inputs], which is kept as it is."""

    def __init__(self, weight: Tensor) -> None:
        self.num_outputs, self.num_inputs = weight.shape
        self.panels = weight
        self.handle = PRODUCTS.give(self)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [..., inputs]; the result [..., outputs] has its type."""
        rows = x.reshape(-1, self.num_inputs).contiguous()
        if not len(rows):
            return x.new_empty(*x.shape[:-1], self.num_outputs)
        found = tiled_product.multiply(rows, self.panels, bias)
        return found.view(*x.shape[:-1], self.num_outputs)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up outputs' weights: [..., inputs] for ids [...]."""
        return self.panels[ids].to(dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs]."""
        return self.panels.to(dtype)


def multiply_by_expert(
    x: Tensor, weight: Tensor, bias: Tensor | None, sources: Tensor, experts: Tensor
) -> Tensor:
    """Each row times its expert's weight; see `verifier.kernels.tiled_product`."""
    return tiled_product.multiply_by_expert(x.contiguous(), weight, bias, sources, experts)
