"""Attention over packed rows: each sequence's rows meet only its own slot's keys and values.

Registered with transformers under the name "lookahead". The cache hands a layer's new keys and
values on; here they are written to their places, and the rows attend to what they may.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from verifier.cache.kv_cache import SlotLayer
from verifier.model.masked_attention import attend_masked
from verifier.model.positional_attention import attend_by_position

NAME = "lookahead"


def register() -> None:
    """Make the attention known to transformers; models choose it by name."""
    AttentionInterface.register(NAME, packed_attention)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def packed_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, rows, dim]
    key: Tensor,  # [1, kv_heads, rows, dim]
    value: Tensor,  # [1, kv_heads, rows, value_dim]
    attention_mask: Tensor | None,  # a placeholder: its last dimension tells the kind of layer
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend; return [1, rows, heads, value_dim] and no weights."""
    assert attention_mask is not None, "packed attention needs its mask"
    layer = key.slot_layer  # type: ignore[attr-defined]
    assert isinstance(layer, SlotLayer)
    attend = attend_masked if layer.owner.placement.table is None else attend_by_position
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    has_window = attention_mask.shape[-1] > 1
    return attend(layer, query, key, value, has_window, scaling, softcap, s_aux).unsqueeze(0), None
