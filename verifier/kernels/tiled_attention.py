"""Attention on a GPU, in Triton, by the same rules as the kernel for a CPU.

A row at position p folds the positions 0..p in their order, in blocks: what a block adds depends on
the row's query and on the keys and values of its positions alone. Blocks are cut into splits at
fixed positions, and the splits of a row are merged in their order. So a row's result has the same
bits in every pass.

Where a tile's rows agree on a block's places (it is *settled* for them), its keys are read once.
Else each row's own places are read, and its lines take their scores from its own product. Both are
products of the same shape, so a line has the same bits either way.

All that changes from pass to pass stands in the block of integers of `tiled_layout`. The grids
depend on the room for rows and on the device, so the launches can be replayed.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from verifier.kernels.tiled_layout import BLOCK, SPAN, SPLIT, num_lines, padded, power_of_two

LOW = -1e30  # what is masked; a number, so that a block of nothing else changes nothing
NUM_WARPS = 4
MAX_CHUNK = 128  # of a key's dimensions, of which a product takes so many at a time
PROGRAMS_PER_PROCESSOR = 4


@triton.jit
def _attend(
    queries,  # [heads, rows, key_dim], by strides
    keys,  # [key heads, places, key_dim]
    values,  # [key heads, places, value_dim]
    partial,  # float32 [works, key heads, LINES, VALUE_DIM]
    stats,  # float32 [works, key heads, LINES, 2]: largest score, sum of weights
    table,
    scale,
    cap,
    window,
    query_head,  # strides
    query_row,
    key_head,
    value_head,
    key_dim,
    value_dim,
    key_heads,
    GROUP: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    LINES: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    PAGES: tl.constexpr,
    NEVER: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
):
    num_works = tl.load(table + 1) * key_heads
    works, others = table + tl.load(table + 2), table + tl.load(table + 3)
    rows = table + 8
    line = tl.arange(0, LINES)
    own = tl.minimum(line // GROUP, TILE_ROWS)
    w, n = tl.arange(0, VALUE_DIM), tl.arange(0, PAGE)
    d = tl.arange(0, CHUNK)
    num_programs = tl.num_programs(0)
    for turn in range(tl.cdiv(num_works - tl.program_id(0), num_programs)):
        work = tl.program_id(0) + turn * num_programs
        head = work % key_heads
        piece = works + 4 * (work // key_heads)
        first, count, split = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2)
        lives = own < count
        row = first + tl.minimum(own, count - 1)
        position = tl.load(rows + 8 * row + 1)
        settled = tl.min(tl.load(rows + 8 * row + 2))
        pages = table + tl.load(table + 4) + tl.load(rows + 8 * first)
        nowhere = tl.load(pages) * PAGE
        begin, end = split * PAGES, tl.minimum((split + 1) * PAGES, tl.max(position) // PAGE + 1)
        if HAS_WINDOW:
            begin = tl.maximum(begin, tl.maximum(tl.min(position) - window + 1, 0) // PAGE)
        q_at = queries + (head * GROUP + line % GROUP) * query_head + row * query_row
        own_keys = keys + head.to(tl.int64) * key_head
        own_values = values + head.to(tl.int64) * value_head
        peak = tl.full([LINES], NEVER, tl.float32)
        total = tl.zeros([LINES], tl.float32)
        out = tl.zeros([LINES, VALUE_DIM], tl.float32)
        for block in range(begin, end):
            at = block * PAGE + n
            common = tl.load(pages + block) * PAGE + n
            is_settled = (block + 1) * PAGE <= settled
            if is_settled:
                scores = _scores(
                    q_at, own_keys, common, key_dim, d, LINES, PAGE, CHUNK, CHUNKS, PRECISION
                )
            else:
                scores = tl.zeros([LINES, PAGE], tl.float32)
                for i in range(count):
                    mine = _places(rows + 8 * (first + i), others, at, common, nowhere)
                    found = _scores(
                        q_at, own_keys, mine, key_dim, d, LINES, PAGE, CHUNK, CHUNKS, PRECISION
                    )
                    scores = tl.where((own == i)[:, None], found, scores)
            scores = scores * scale
            if HAS_CAP:
                scores = cap * (2 * tl.sigmoid(2 * scores / cap) - 1)
            seen = (at[None, :] <= position[:, None]) & lives[:, None]
            if HAS_WINDOW:
                seen = seen & (position[:, None] - at[None, :] < window)
            scores = tl.where(seen, scores, NEVER)
            higher = tl.maximum(peak, tl.max(scores, 1))
            weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
            shrink = tl.exp(peak - higher)
            total = total * shrink + tl.sum(weights, 1)
            peak = higher
            share = weights.to(values.dtype.element_ty)
            if is_settled:
                added = _weighted(share, own_values, common, value_dim, w, PRECISION)
            else:
                added = tl.zeros([LINES, VALUE_DIM], tl.float32)
                for i in range(count):
                    mine = _places(rows + 8 * (first + i), others, at, common, nowhere)
                    found = _weighted(share, own_values, mine, value_dim, w, PRECISION)
                    added = tl.where((own == i)[:, None], found, added)
            out = out * shrink[:, None] + added
        to = work.to(tl.int64) * LINES + line
        tl.store(partial + to[:, None] * VALUE_DIM + w[None, :], out, mask=lives[:, None])
        tl.store(stats + 2 * to, peak, mask=lives)
        tl.store(stats + 2 * to + 1, total, mask=lives)


@triton.jit
def _scores(
    q_at,
    keys,
    places,
    key_dim,
    d,
    LINES: tl.constexpr,
    PAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The products of a tile's queries with the keys at some places, chunk after chunk."""
    scores = tl.zeros([LINES, PAGE], tl.float32)
    k_at = keys + places.to(tl.int64) * key_dim
    for chunk in tl.static_range(CHUNKS):
        inside = chunk * CHUNK + d < key_dim
        q = tl.load(q_at[:, None] + (chunk * CHUNK + d)[None, :], mask=inside[None, :], other=0.0)
        k = tl.load(k_at[None, :] + (chunk * CHUNK + d)[:, None], mask=inside[:, None], other=0.0)
        scores = tl.dot(q, k, scores, input_precision=PRECISION)
    return scores


@triton.jit
def _weighted(share, values, places, value_dim, w, PRECISION: tl.constexpr):
    """The values at some places, by the weights of a tile's lines."""
    v_at = values + places.to(tl.int64) * value_dim
    v = tl.load(v_at[:, None] + w[None, :], mask=(w < value_dim)[None, :], other=0.0)
    return tl.dot(share, v, input_precision=PRECISION)


@triton.jit
def _places(row, others, at, common, nowhere):
    """Where a row finds the positions `at`; those behind its own lie nowhere, and it looks at the
    first row of its sequence."""
    position, settled = tl.load(row + 1), tl.load(row + 2)
    is_other = (at >= settled) & (at <= position)
    other = tl.load(others + tl.load(row + 3) + at - settled, mask=is_other, other=0)
    mine = tl.where(is_other, other, common)
    return tl.where(at <= position, mine, nowhere)


@triton.jit
def _merge(
    partial,
    stats,
    sinks,
    out,  # [rows, heads, value_dim]
    table,
    window,
    num_heads,
    value_dim,
    GROUP: tl.constexpr,
    LINES: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    POSITIONS: tl.constexpr,
    NEVER: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Merge the splits of a row, one after the other; rows that only pad a pass read nothing."""
    row, head = tl.program_id(0), tl.program_id(1)
    w = tl.arange(0, VALUE_DIM)
    at = table + 8 + 8 * row
    position = tl.load(at + 1)
    begin, end = 0, position // POSITIONS + 1
    if HAS_WINDOW:
        begin = tl.maximum(position - window + 1, 0) // POSITIONS
    if row >= tl.load(table):
        end = begin
    peak, total = NEVER, 0.0
    if HAS_SINKS:
        peak, total = tl.load(sinks + head).to(tl.float32), 1.0
    result = tl.zeros([VALUE_DIM], tl.float32)
    line = tl.load(at + 6) * GROUP + head % GROUP
    for split in range(begin, end):
        work = (tl.load(at + 5) + split) * (num_heads // GROUP) + head // GROUP
        of_line = work.to(tl.int64) * LINES + line
        other, weight = tl.load(stats + 2 * of_line), tl.load(stats + 2 * of_line + 1)
        higher = tl.maximum(peak, other)
        shrink, grow = tl.exp(peak - higher), tl.exp(other - higher)
        result = result * shrink + tl.load(partial + of_line * VALUE_DIM + w) * grow
        total = total * shrink + weight * grow
        peak = higher
    result = (result / tl.where(total > 0, total, 1.0)).to(out.dtype.element_ty)
    tl.store(out + (row * num_heads + head) * value_dim + w, result, mask=w < value_dim)


@triton.jit
def _store(
    new_keys,  # [key heads, rows, key_dim], by strides
    new_values,
    keys,
    values,
    table,
    new_key_head,  # strides
    new_key_row,
    new_value_head,
    new_value_row,
    key_head,
    value_head,
    key_dim,
    value_dim,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
):
    """Write a row's key and value of one head to its place; rows that only pad a pass have none."""
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if row >= tl.load(table):
        return
    place = tl.load(table + 8 + 8 * row + 4).to(tl.int64)
    d, w = tl.arange(0, KEY_DIM), tl.arange(0, VALUE_DIM)
    key = tl.load(new_keys + head * new_key_head + row * new_key_row + d, mask=d < key_dim)
    value = tl.load(
        new_values + head * new_value_head + row * new_value_row + w, mask=w < value_dim
    )
    to = keys + head * key_head + place * key_dim + d
    tl.store(to, key.to(keys.dtype.element_ty), mask=d < key_dim)
    to = values + head * value_head + place * value_dim + w
    tl.store(to, value.to(values.dtype.element_ty), mask=w < value_dim)


def store(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, table: Tensor
) -> None:
    """Write a pass's keys and values [key heads, rows, dim] to [key heads, places, dim]."""
    key_heads, num_rows, key_dim = new_keys.shape
    value_dim = new_values.shape[-1]
    assert new_keys.stride(2) == new_values.stride(2) == 1, "a row's numbers lie side by side"
    _store[(num_rows, key_heads)](
        new_keys,
        new_values,
        keys,
        values,
        table,
        new_keys.stride(0),
        new_keys.stride(1),
        new_values.stride(0),
        new_values.stride(1),
        keys.stride(0),
        values.stride(0),
        key_dim,
        value_dim,
        KEY_DIM=power_of_two(key_dim),
        VALUE_DIM=power_of_two(value_dim),
        num_warps=1,
    )


def attend(
    queries: Tensor,  # [heads, rows, key_dim]
    keys: Tensor,  # [key heads, places, key_dim]
    values: Tensor,  # [key heads, places, value_dim]
    table: Tensor,  # int32
    num_works: int,  # pieces of work that there is room for
    tile_rows: int,
    *,
    scale: float,
    cap: float,  # 0: none
    window: int,  # 0: none
    sinks: Tensor | None,  # [heads]
) -> Tensor:
    """What the rows read, [rows, heads, value_dim]."""
    num_heads, num_rows, key_dim = queries.shape
    key_heads, value_dim = len(keys), values.shape[-1]
    assert queries.stride(2) == 1, "a row's numbers lie side by side"
    group, width = num_heads // key_heads, padded(value_dim)
    lines = num_lines(group, tile_rows)
    shape = (num_works, key_heads, lines)
    partial = queries.new_empty(*shape, width, dtype=torch.float32)
    stats = queries.new_empty(*shape, 2, dtype=torch.float32)
    out = queries.new_empty(num_rows, num_heads, value_dim)
    chunk = key_chunk(key_dim)
    _attend[(num_programs(num_works * key_heads, queries.device),)](
        queries,
        keys,
        values,
        partial,
        stats,
        table,
        scale,
        cap,
        window,
        queries.stride(0),
        queries.stride(1),
        keys.stride(0),
        values.stride(0),
        key_dim,
        value_dim,
        key_heads,
        GROUP=group,
        TILE_ROWS=tile_rows,
        LINES=lines,
        CHUNK=chunk,
        CHUNKS=-(-key_dim // chunk),
        VALUE_DIM=width,
        PAGE=BLOCK,
        PAGES=SPLIT,
        NEVER=LOW,
        HAS_CAP=cap > 0,
        HAS_WINDOW=window > 0,
        PRECISION=precision(queries),
        num_warps=num_warps(lines, width, keys.element_size()),
    )
    _merge[(num_rows, num_heads)](
        partial,
        stats,
        out if sinks is None else sinks,
        out,
        table,
        window,
        num_heads,
        value_dim,
        GROUP=group,
        LINES=lines,
        VALUE_DIM=width,
        POSITIONS=SPAN,
        NEVER=LOW,
        HAS_SINKS=sinks is not None,
        HAS_WINDOW=window > 0,
        num_warps=1,
    )
    return out


def key_chunk(key_dim: int) -> int:
    """Dimensions of a key that one product takes: all, where they are few and nearly fill them."""
    whole = padded(key_dim)
    return whole if whole <= MAX_CHUNK else 64


def num_warps(lines: int, width: int, item_size: int) -> int:
    """Warps of a program: as many as keep all that it adds up in registers."""
    is_middling = width > 64 and lines * width <= 16 * 128
    return NUM_WARPS if item_size == 2 and is_middling else 2 * NUM_WARPS


def precision(x: Tensor) -> str:
    """How products of a type are computed: exactly, for float32, too."""
    return "ieee" if x.element_size() == 4 else "tf32"


def num_programs(num_pieces: int, device: torch.device) -> int:
    """Programs that share so many pieces of work; each takes one after the other."""
    return max(1, min(num_pieces, PROGRAMS_PER_PROCESSOR * _num_processors(device)))


@cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


Kernel = Any
KERNELS: dict[str, Kernel] = {"attend": _attend, "merge": _merge, "store": _store}
