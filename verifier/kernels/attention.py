"""Attention of packed rows over the slots' keys and values, by position.

A row at position p folds the positions 0..p in their order, in blocks of BLOCK: scores, the
largest one, weights, weighted values. What a block adds depends on the row's query and on the keys
and values of its positions. It depends neither on where these lie in the cache, nor on other rows,
nor on how the work is shared out to threads. So a row's result has the same bits in every pass.

A sequence's rows lie in pages of BLOCK places, which its table names in their order. The positions
behind the committed rows may lie anywhere: the siblings of a draft stand between them. A row knows
how many of its positions are *settled*, that is, lie where the table says; the others' places are
listed in `places`.

A *line* is one row's query of one head. TILE lines go through the inner loops together.
"""

from functools import cache
from typing import Any

import numpy as np

from verifier.kernels import vectors
from verifier.kernels.compile import entry, part
from verifier.kernels.sharing import take_ticket
from verifier.kernels.threads import NUM_SHARED, SCRATCH, SCRATCH_SIZE, THREAD, TICKET
from verifier.kernels.vectors import BFLOAT16, FLOAT16, FLOAT32, LANES, TILE, load, size_of

BLOCK = 64  # positions, as many as a page of the cache has
LINES = 32  # of a piece of work, at most

# The integers that describe a call, by index, after the shared ones. Addresses are in bytes,
# strides in numbers.
(
    # Of a layer:
    KEYS,  # [key heads, places, key_dim]
    VALUES,  # [key heads, places, value_dim]
    KEY_DIM,
    VALUE_DIM,
    KEY_HEAD,  # strides
    VALUE_HEAD,
    # Of a pass:
    NUM_ROWS,
    NEW_KEYS,  # [rows, key heads, key_dim]
    NEW_VALUES,  # [rows, key heads, value_dim]
    NUM_KEY_HEADS,
    QUERIES,  # float32 [rows, heads, key_dim]
    OUTPUT,  # float32 [rows, heads, value_dim]
    ROWS,  # [rows, ROW_FIELDS]
    PLACES,
    TABLES,
    PIECES,  # [pieces, PIECE_FIELDS]
    NUM_PIECES,
    NUM_HEADS,
    GROUP,  # heads that share a key
    WINDOW,  # positions that a row attends to, or 0 for all
    SCALES,  # float32: factor of scores, their cap or 0
    SINKS,  # float32 [heads], or 0
    NUM_FIELDS,
) = range(NUM_SHARED, NUM_SHARED + 23)
# Where a row's table begins in TABLES, its position, its settled positions, where its other places
# begin in PLACES, and its own place.
ROW_FIELDS = 5
# A piece's first row; its first and end line, counted from that row; its key head.
PIECE_FIELDS = 4

f4, i8 = np.float32, np.int64
NEVER = f4(-np.inf)


def scratch_size(key_dim: int, value_dim: int) -> int:
    """Bytes that a thread works in."""
    floats = LINES * (key_dim + value_dim + BLOCK) + LINES // TILE * 2 * LANES
    return 4 * floats + 8 * (LINES * BLOCK + LINES)


@part
def _weigh(s: int, scales: int, state: int, o: int, dim: int) -> None:
    """Turn scores s [BLOCK, TILE] into weights, and take what the lines have to the new peak."""
    scale, cap = vectors.splat(vectors.load_float(scales)), vectors.load_float(scales + 4)
    size = 4 * BLOCK * TILE
    before = load(FLOAT32, state)
    peak = before
    for k in range(0, size, 4 * LANES):
        score = vectors.multiply(load(FLOAT32, s + k), scale)
        if cap != f4(0):
            capped = vectors.tanh(vectors.multiply(score, vectors.splat(f4(1) / cap)))
            # What is masked stays so.
            score = vectors.choose_finite(score, vectors.multiply(capped, vectors.splat(cap)))
        vectors.store(s + k, score)
        peak = vectors.maximum(score, peak)
    peak = vectors.largest_by_line(peak)
    added = vectors.splat(f4(0))
    for k in range(0, size, 4 * LANES):
        weight = vectors.exp_difference(load(FLOAT32, s + k), peak)
        vectors.store(s + k, weight)
        added = vectors.add(added, weight)
    shrink = vectors.exp_difference(before, peak)
    vectors.store(state, peak)
    sums = load(FLOAT32, state + 4 * LANES)
    added = vectors.total_by_line(added)
    vectors.store(state + 4 * LANES, vectors.fma(sums, shrink, added))
    for line in range(TILE):
        factor = vectors.splat(vectors.lane(shrink, line))
        for d in range(4 * line * dim, 4 * (line + 1) * dim, 4 * LANES):
            vectors.store(o + d, vectors.multiply(load(FLOAT32, o + d), factor))


@part
def _score_block(kind: Any, q: int, keys: int, num_keys: int, dim: int, s: int) -> None:
    """s [num_keys, TILE] = the products of q [TILE, dim] with keys [num_keys, dim]."""
    line = 4 * dim
    for k in range(num_keys):
        s0 = s1 = s2 = s3 = vectors.splat(f4(0))
        for d in range(0, dim, LANES):
            key, at = load(kind, keys + d * size_of(kind)), q + 4 * d
            s0 = vectors.fma(load(FLOAT32, at), key, s0)
            s1 = vectors.fma(load(FLOAT32, at + line), key, s1)
            s2 = vectors.fma(load(FLOAT32, at + 2 * line), key, s2)
            s3 = vectors.fma(load(FLOAT32, at + 3 * line), key, s3)
        vectors.store_totals(s + 4 * TILE * k, s0, s1, s2, s3)
        keys += dim * size_of(kind)


@part
def _score_places(kind: Any, q: int, keys: int, places: int, end: int, dim: int, s: int) -> None:
    """The same where each line has indices of its own: places [TILE, BLOCK]."""
    line, size = 4 * dim, dim * size_of(kind)
    for k in range(end):
        s0 = s1 = s2 = s3 = vectors.splat(f4(0))
        at = places + 8 * k
        k0 = keys + vectors.load_int(at) * size
        k1 = keys + vectors.load_int(at + 8 * BLOCK) * size
        k2 = keys + vectors.load_int(at + 16 * BLOCK) * size
        k3 = keys + vectors.load_int(at + 24 * BLOCK) * size
        for d in range(0, dim, LANES):
            at, offset = q + 4 * d, d * size_of(kind)
            s0 = vectors.fma(load(FLOAT32, at), load(kind, k0 + offset), s0)
            s1 = vectors.fma(load(FLOAT32, at + line), load(kind, k1 + offset), s1)
            s2 = vectors.fma(load(FLOAT32, at + 2 * line), load(kind, k2 + offset), s2)
            s3 = vectors.fma(load(FLOAT32, at + 3 * line), load(kind, k3 + offset), s3)
        vectors.store_totals(s + 4 * TILE * k, s0, s1, s2, s3)


@part
def _add_block(kind: Any, p: int, values: int, num_keys: int, dim: int, o: int) -> None:
    """o [TILE, dim] += the values [num_keys, dim] times p [num_keys, TILE]."""
    line = 4 * dim
    for d in range(0, dim, LANES):
        to = o + 4 * d
        o0, o1 = load(FLOAT32, to), load(FLOAT32, to + line)
        o2, o3 = load(FLOAT32, to + 2 * line), load(FLOAT32, to + 3 * line)
        at, weight = values + d * size_of(kind), p
        for _ in range(num_keys):
            value = load(kind, at)
            o0 = vectors.fma(vectors.splat(vectors.load_float(weight)), value, o0)
            o1 = vectors.fma(vectors.splat(vectors.load_float(weight + 4)), value, o1)
            o2 = vectors.fma(vectors.splat(vectors.load_float(weight + 8)), value, o2)
            o3 = vectors.fma(vectors.splat(vectors.load_float(weight + 12)), value, o3)
            at += dim * size_of(kind)
            weight += 4 * TILE
        vectors.store(to, o0)
        vectors.store(to + line, o1)
        vectors.store(to + 2 * line, o2)
        vectors.store(to + 3 * line, o3)


@part
def _add_places(kind: Any, p: int, values: int, places: int, end: int, dim: int, o: int) -> None:
    """The same where each line has indices of its own."""
    size = dim * size_of(kind)
    for d in range(0, dim, LANES):
        for line in range(TILE):
            to = o + 4 * (line * dim + d)
            out = load(FLOAT32, to)
            at = places + 8 * BLOCK * line
            for k in range(end):
                value = load(kind, values + vectors.load_int(at + 8 * k) * size + d * size_of(kind))
                weight = vectors.load_float(p + 4 * (TILE * k + line))
                out = vectors.fma(vectors.splat(weight), value, out)
            vectors.store(to, out)


@part
def _areas(call: int, scratch: int) -> Any:
    """Where a thread keeps what its lines have."""
    dim, width = vectors.load_int(call + 8 * KEY_DIM), vectors.load_int(call + 8 * VALUE_DIM)
    outputs = scratch + 4 * LINES * dim  # after the queries; [lines, width]
    scores = outputs + 4 * LINES * width  # [tiles, BLOCK, TILE]
    state = scores + 4 * LINES * BLOCK  # [tiles, 2, LANES]: largest score, sum of weights
    places = state + 8 * LINES // TILE * LANES  # [tiles, TILE, BLOCK]
    row_of = places + 8 * LINES * BLOCK  # [lines] address of the line's row
    return outputs, scores, state, places, row_of


@part
def _find_line(call: int, piece: int, line: int) -> Any:
    """The row of one of a piece's lines, counted from the piece's first one, and its head."""
    group = vectors.load_int(call + 8 * GROUP)
    index = vectors.load_int(piece + 8) + line
    return index // group, vectors.load_int(piece + 24) * group + index % group


@part
def _begin_lines(call: int, piece: int, num_lines: int, scratch: int) -> Any:
    """Copy the queries; return the lines' first and last position, and the least settled."""
    field = vectors.load_int
    outputs, _, state, _, row_of = _areas(call, scratch)
    dim, width, num_heads = (
        field(call + 8 * KEY_DIM),
        field(call + 8 * VALUE_DIM),
        field(call + 8 * NUM_HEADS),
    )
    sinks, first_row = field(call + 8 * SINKS), field(piece)
    first, last, settled = i8(1) << 60, i8(0), i8(1) << 60
    for line in range((num_lines + TILE - 1) // TILE * TILE):
        # The last tile is filled up with its last line over again.
        row, head = _find_line(call, piece, min(line, num_lines - 1))
        at = field(call + 8 * ROWS) + 8 * ROW_FIELDS * (first_row + row)
        vectors.store_int(row_of + 8 * line, at)
        first, last = min(first, field(at + 8)), max(last, field(at + 8))
        settled = min(settled, field(at + 16))
        query = field(call + 8 * QUERIES) + 4 * ((first_row + row) * num_heads + head) * dim
        for d in range(0, 4 * dim, 4 * LANES):
            vectors.store(scratch + 4 * line * dim + d, load(FLOAT32, query + d))
        for d in range(0, 4 * width, 4 * LANES):
            vectors.store(outputs + 4 * line * width + d, vectors.splat(f4(0)))
        for lane in range(line % TILE, LANES, TILE):
            peak = state + 4 * (line // TILE * 2 * LANES + lane)
            vectors.store_float(peak, vectors.load_float(sinks + 4 * head) if sinks else NEVER)
            vectors.store_float(peak + 4 * LANES, f4(1) if sinks else f4(0))
    return first, last, settled


@part
def _find_places(
    places: int, rows: int, others: int, table: int, start: int, num_keys: int
) -> None:
    """The places [TILE, BLOCK] of a block's positions from `start` on, for a tile's lines."""
    field = vectors.load_int
    page_start, nowhere = field(table + 8 * (start // BLOCK)) * BLOCK, field(table) * BLOCK
    for line in range(TILE):
        at = field(rows + 8 * line)
        settled, more, end = field(at + 16), others + 8 * field(at + 24), field(at + 8) + 1
        for k in range(num_keys):
            position, place = start + k, page_start + k
            if position >= settled:
                # Behind its own position a line has no place, and looks at its first row.
                place = field(more + 8 * (position - settled)) if position < end else nowhere
            vectors.store_int(places + 8 * (line * BLOCK + k), place)


@part
def _mask(scores: int, rows: int, start: int, window: int) -> None:
    """Forbid a tile's lines what lies behind their positions and before their windows."""
    for line in range(TILE):
        position = vectors.load_int(vectors.load_int(rows + 8 * line) + 8)
        low = min(max(position - window + 1 - start, 0), BLOCK) if window else 0
        for k in range(low):
            vectors.store_float(scores + 4 * (TILE * k + line), NEVER)
        for k in range(min(max(position + 1 - start, 0), BLOCK), BLOCK):
            vectors.store_float(scores + 4 * (TILE * k + line), NEVER)


@part
def _end_lines(call: int, piece: int, num_lines: int, scratch: int) -> None:
    """Write the outputs, each divided by its sum of weights."""
    field = vectors.load_int
    outputs, _, state, _, _ = _areas(call, scratch)
    width, num_heads = field(call + 8 * VALUE_DIM), field(call + 8 * NUM_HEADS)
    for line in range(num_lines):
        row, head = _find_line(call, piece, line)
        sums = state + 4 * (line // TILE * 2 * LANES + LANES + line % TILE)
        to = field(call + 8 * OUTPUT) + 4 * ((field(piece) + row) * num_heads + head) * width
        share = vectors.splat(f4(1) / vectors.load_float(sums))
        for d in range(0, 4 * width, 4 * LANES):
            out = load(FLOAT32, outputs + 4 * line * width + d)
            vectors.store(to + d, vectors.multiply(out, share))


@part
def _attend_piece(kind: Any, call: int, piece: int, scratch: int) -> None:
    """Fold the blocks of a piece's lines, one after the other."""
    field, size = vectors.load_int, size_of(kind)
    outputs, scores, state, places, row_of = _areas(call, scratch)
    dim, width, window = (
        field(call + 8 * KEY_DIM),
        field(call + 8 * VALUE_DIM),
        field(call + 8 * WINDOW),
    )
    num_lines = field(piece + 16) - field(piece + 8)
    first, last, settled = _begin_lines(call, piece, num_lines, scratch)
    table, head = field(call + 8 * TABLES) + 8 * field(field(row_of)), field(piece + 24)
    keys = field(call + 8 * KEYS) + size * head * field(call + 8 * KEY_HEAD)
    values = field(call + 8 * VALUES) + size * head * field(call + 8 * VALUE_HEAD)
    begin = max(first - window + 1, 0) // BLOCK if window else 0
    for block in range(begin, last // BLOCK + 1):
        start, page_start = block * BLOCK, field(table + 8 * block) * BLOCK
        num_keys = min(last + 1 - start, BLOCK)
        is_settled = start + num_keys <= settled
        for tile in range((num_lines + TILE - 1) // TILE):
            weights, query = scores + 4 * TILE * BLOCK * tile, scratch + 4 * TILE * dim * tile
            output, rows = outputs + 4 * TILE * width * tile, row_of + 8 * TILE * tile
            spots = places + 8 * TILE * BLOCK * tile
            if is_settled:
                at = keys + page_start * dim * size
                _score_block(kind, query, at, num_keys, dim, weights)
            else:
                others = field(call + 8 * PLACES)
                _find_places(spots, rows, others, table, start, num_keys)
                _score_places(kind, query, keys, spots, num_keys, dim, weights)
            _mask(weights, rows, start, window)
            _weigh(weights, field(call + 8 * SCALES), state + 8 * LANES * tile, output, width)
            if is_settled:
                at = values + page_start * width * size
                _add_block(kind, weights, at, num_keys, width, output)
            else:
                _add_places(kind, weights, values, spots, num_keys, width, output)
    _end_lines(call, piece, num_lines, scratch)


@part
def _attend(kind: Any, call: int) -> None:
    thread = take_ticket(call + 8 * THREAD)
    scratch = vectors.load_int(call + 8 * SCRATCH)
    scratch += thread * vectors.load_int(call + 8 * SCRATCH_SIZE)
    pieces = vectors.load_int(call + 8 * PIECES)
    piece = take_ticket(call + 8 * TICKET)
    while piece < vectors.load_int(call + 8 * NUM_PIECES):
        _attend_piece(kind, call, pieces + 8 * PIECE_FIELDS * piece, scratch)
        piece = take_ticket(call + 8 * TICKET)


@part
def _store(kind: Any, call: int) -> None:
    """Write the pass's keys and values to their places."""
    field = vectors.load_int
    heads, rows = field(call + 8 * NUM_KEY_HEADS), field(call + 8 * ROWS)
    dim, width = field(call + 8 * KEY_DIM), field(call + 8 * VALUE_DIM)
    for row in range(field(call + 8 * NUM_ROWS)):
        place = field(rows + 32)
        rows += 8 * ROW_FIELDS
        for head in range(heads):
            to = head * field(call + 8 * KEY_HEAD) + place * dim
            _copy(
                kind,
                field(call + 8 * NEW_KEYS) + (row * heads + head) * dim * size_of(kind),
                field(call + 8 * KEYS) + to * size_of(kind),
                dim,
            )
            to = head * field(call + 8 * VALUE_HEAD) + place * width
            _copy(
                kind,
                field(call + 8 * NEW_VALUES) + (row * heads + head) * width * size_of(kind),
                field(call + 8 * VALUES) + to * size_of(kind),
                width,
            )


@part
def _copy(kind: Any, source: int, target: int, count: int) -> None:
    for _ in range(0, count, LANES):
        vectors.store_as(kind, target, load(kind, source))
        source += LANES * size_of(kind)
        target += LANES * size_of(kind)


def _attend_float32(call: int) -> None:
    _attend(FLOAT32, call)


def _attend_bfloat16(call: int) -> None:
    _attend(BFLOAT16, call)


def _attend_float16(call: int) -> None:
    _attend(FLOAT16, call)


def _store_float32(call: int) -> None:
    _store(FLOAT32, call)


def _store_bfloat16(call: int) -> None:
    _store(BFLOAT16, call)


def _store_float16(call: int) -> None:
    _store(FLOAT16, call)


_ENTRIES = {
    "float32": (_store_float32, _attend_float32),
    "bfloat16": (_store_bfloat16, _attend_bfloat16),
    "float16": (_store_float16, _attend_float16),
}


@cache
def attention_kernels(kind: str) -> tuple[Any, Any]:
    """For keys and values of a type: what writes them, for one thread, and what attends."""
    store, attend = _ENTRIES[kind]
    return entry(store), entry(attend)
