"""Attention over packed rows: each sequence's rows meet only its own slot's keys and values.

Registered with transformers under the name "lookahead". The model hands over whole storages
[slots, kv_heads, capacity, dim] and a mask [1, 1, rows, kv_len] whose columns are slot indices.
Query heads that share a key head are laid out beside it, so no key is ever copied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from verifier.kv_cache import KVCache

NAME = "lookahead"


def register() -> None:
    """Make the attention known to transformers; models choose it by name."""
    AttentionInterface.register(NAME, packed_attention)


def bind(model: nn.Module, kv_cache: KVCache) -> None:
    """Tell every attention layer of the model whose placement to follow."""
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["kv_cache"] = kv_cache


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, rows, dim]
    key: Tensor,  # [slots, kv_heads, capacity, dim]
    value: Tensor,  # [slots, kv_heads, capacity, value_dim]
    attention_mask: Tensor | None,  # [1, 1, rows, kv_len], True = may attend
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend; return [1, rows, heads, value_dim] and no weights."""
    assert attention_mask is not None, "packed attention needs its mask"
    assert isinstance(module.kv_cache, KVCache)
    outputs = []
    for slot, start, end, kv_len in module.kv_cache.placement.segments:
        outputs.append(
            _attend(
                query[0, :, start:end],
                key[slot, :, :kv_len],
                value[slot, :, :kv_len],
                attention_mask[0, 0, start:end, :kv_len],
                scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
                softcap=softcap,
                sinks=s_aux,
            )
        )
    return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0), None


def _attend(
    query: Tensor,  # [heads, rows, dim]
    key: Tensor,  # [kv_heads, kv_len, dim]
    value: Tensor,  # [kv_heads, kv_len, value_dim]
    mask: Tensor,  # [rows, kv_len]
    *,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # [heads, rows, value_dim]
    kv_heads, (heads, rows, dim) = key.shape[0], query.shape
    grouped = query.reshape(kv_heads, heads // kv_heads, rows, dim)
    keys = key.unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
    values = value.unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
    if softcap is None and sinks is None:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
    else:
        out = _attend_by_hand(grouped, keys, values, mask, scaling, softcap, sinks)
    return out.reshape(heads, rows, value.shape[-1])


def _attend_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What the fused kernels lack: capped scores (Gemma 2) and attention sinks (gpt-oss)."""
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        sink = sinks.view(*query.shape[:2], 1, 1).expand(-1, -1, query.shape[2], 1)
        scores = torch.cat([scores, sink.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[-2]] @ value
