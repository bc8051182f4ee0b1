"""Packed attention by torch's fused kernels and masks: what runs on a GPU.

A sequence's keys and values are gathered from its pages. Query heads that share a key head are laid
out beside it. Each sequence is a call of its own, or all short ones are one padded call
(`PaddedGroup`), since there calls cost more than padding. How a row rounds depends on the shapes of
its pass.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.cache.placement import PaddedGroup, SegmentRows
from verifier.cache.slot_layers import SlotLayer

MAX_JOINED_ROWS = 65  # of a sequence: a draft, not a run of a prompt


def attend_masked(
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
    layer.write(key, value)
    place = layer.owner.placement
    mask = place.masks[has_window]
    is_plain = softcap is None and sinks is None
    together = place.together if is_plain else None
    # Zeros, for the rows that only pad a pass.
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])
    if together is not None:
        output[together.rows] = _attend_together(
            query[0], layer.keys, layer.values, mask[0, 0], together, scaling
        )
    done = set() if together is None else together.starts
    for segment in place.segments:
        start, end = segment.start, segment.end
        if start not in done:
            output[start:end] = _attend(
                query[0, :, start:end],
                layer.keys[:, segment.places],
                layer.values[:, segment.places],
                mask[0, 0, start:end, : segment.kv_len],
                scaling=scaling,
                softcap=softcap,
                sinks=sinks,
                is_fused=is_plain,
            ).transpose(0, 1)
    return output


def make_together(segments: Sequence[SegmentRows], device: torch.device) -> PaddedGroup | None:
    """One call for all segments of few rows; None where there is nothing to join."""
    short = [each for each in segments if each.end - each.start <= MAX_JOINED_ROWS]
    if len(short) < 2:
        return None
    width = max(each.end - each.start for each in short)
    kv_len = max(each.kv_len for each in short)
    # Padding repeats some row, and reads some place; nobody reads the result.
    places = torch.zeros(len(short), kv_len, dtype=torch.long, device=device)
    place = torch.zeros(len(short), width, dtype=torch.long)
    rows: list[int] = []
    cells: list[int] = []
    for index, each in enumerate(short):
        num_rows = each.end - each.start
        places[index, : each.kv_len] = each.places
        place[index] = each.start
        place[index, :num_rows] = torch.arange(each.start, each.end)
        rows += range(each.start, each.end)
        cells += [index * width + i for i in range(num_rows)]
    return PaddedGroup(
        places=places,
        place=place.to(device, non_blocking=True),
        rows=torch.tensor(rows).to(device, non_blocking=True),
        cells=torch.tensor(cells).to(device, non_blocking=True),
        starts=frozenset(each.start for each in short),
    )


def _attend_together(
    query: Tensor,  # [heads, rows, dim]
    key: Tensor,  # [kv_heads, places, dim]
    value: Tensor,  # [kv_heads, places, value_dim]
    mask: Tensor,  # [rows, kv_len]
    together: PaddedGroup,
    scaling: float,
) -> Tensor:  # [joined rows, heads, value_dim]
    heads, kv_heads, kv_len = query.shape[0], key.shape[0], together.places.shape[1]
    count, width = together.place.shape
    groups = heads // kv_heads
    queries = query[:, together.place].transpose(0, 1)  # [segments, heads, width, dim]
    allowed = mask[together.place][..., :kv_len]  # [segments, width, kv_len]
    out = F.scaled_dot_product_attention(
        queries.reshape(count, kv_heads, groups * width, -1),
        key[:, together.places].transpose(0, 1),
        value[:, together.places].transpose(0, 1),
        attn_mask=allowed.repeat(1, groups, 1).unsqueeze(1),
        scale=scaling,
    )
    by_cell = out.reshape(count, heads, width, -1).transpose(1, 2).flatten(0, 1)
    return by_cell[together.cells]


def _attend(
    query: Tensor,  # [heads, rows, dim]
    key: Tensor,  # [kv_heads, kv_len, dim]
    value: Tensor,  # [kv_heads, kv_len, value_dim]
    mask: Tensor,  # [rows, kv_len]
    *,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
    is_fused: bool,
) -> Tensor:  # [heads, rows, value_dim]
    kv_heads, (heads, rows, dim) = key.shape[0], query.shape
    grouped = query.reshape(kv_heads, heads // kv_heads, rows, dim)
    keys = key.unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
    values = value.unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
    if is_fused:
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
