"""Products of rows with a weight, each row by itself.

Every number of the result is one sum along the inputs, from the first to the last, in float32. It
is the same sum whatever other rows there are, so a row's result has the same bits in every pass.

A weight is stored in panels of LANES outputs: [panels, inputs, LANES]. Few rows all meet a panel
as it is read, at the speed of the memory. Of many rows, TALL at a time meet a part of a panel
while it is near.
"""

from functools import cache
from typing import Any

import numpy as np

from verifier.kernels import vectors
from verifier.kernels.compile import entry, part
from verifier.kernels.sharing import take_ticket
from verifier.kernels.threads import NUM_SHARED, SCRATCH, SCRATCH_SIZE, THREAD, TICKET
from verifier.kernels.vectors import BFLOAT16, FLOAT16, FLOAT32, LANES, load, size_of

TALL = 6  # rows of the inner loop
PART = 4096  # bytes of a part of a panel; the next one has room beside it in the nearest cache
MANY, DEPTH = 32, 256  # above so many rows parts are longer, and widened before the inner loops
AHEAD = np.int64(1024)  # bytes of weights that are fetched before they are read
PANELS = 4  # of a piece of work; a weight has a multiple of them

# The integers that describe a call, by index, after the shared ones. Addresses are in bytes.
(
    # Of a weight:
    WEIGHT,
    NUM_INPUTS,
    NUM_PANELS,
    # Of a call:
    INPUT,  # float32 [rows, inputs]
    BIAS,  # float32 [panels, LANES], or 0
    OUTPUT,  # [rows, panels, LANES]
    OUTPUT_KIND,  # an index of OUTPUT_KINDS
    NUM_ROWS,
    NUM_FIELDS,
) = range(NUM_SHARED, NUM_SHARED + 9)
OUTPUT_KINDS = ("float32", "bfloat16", "float16")

f4, i8 = np.float32, np.int64


def scratch_size(num_rows: int) -> int:
    """Bytes that a thread works in."""
    return 4 * LANES * (PANELS * num_rows + DEPTH)


# By rows: as many panels beside each other as keep the processor's registers full.
_one, _two, _three, _four, _five, _six = (
    vectors.multiply_add(rows, panels, fresh=True)
    for rows, panels in ((1, 4), (2, 2), (3, 2), (4, 1), (5, 1), (6, 1))
)
_add_three, _add_four, _add_five, _add_six = (
    vectors.multiply_add(rows, 1, fresh=False) for rows in (3, 4, 5, 6)
)


@part
def _read_panels(kind: Any, x: int, rows: int, inputs: int, weight: int, sums: int) -> None:
    """The sums of few rows over PANELS panels."""
    row, panel, stride = 4 * inputs, inputs * LANES * size_of(kind), 4 * LANES * rows
    if rows == 1:
        _one(kind, x, row, weight, panel, inputs, sums, stride, AHEAD)
    elif rows <= 3:
        for p in range(0, PANELS, 2):
            at, to = weight + p * panel, sums + p * stride
            if rows == 2:
                _two(kind, x, row, at, panel, inputs, to, stride, AHEAD)
            else:
                _three(kind, x, row, at, panel, inputs, to, stride, AHEAD)
    else:
        for p in range(PANELS):
            _read_panel(kind, x, rows, inputs, weight + p * panel, sums + p * stride)


@part
def _read_panel(kind: Any, x: int, rows: int, inputs: int, panel: int, sums: int) -> None:
    row, zero = 4 * inputs, i8(0)
    if rows == 4:
        _four(kind, x, row, panel, zero, inputs, sums, zero, AHEAD)
    elif rows == 5:
        _five(kind, x, row, panel, zero, inputs, sums, zero, AHEAD)
    else:
        _six(kind, x, row, panel, zero, inputs, sums, zero, AHEAD)


@part
def _meet_part(
    kind: Any, x: int, rows: int, inputs: int, weight: int, depth: int, sums: int, next_part: int
) -> None:
    """The sums of many rows over a part of a panel, shared out evenly to the inner loops.

    The last of them fetches the next part, so many bytes ahead, which then is near in its turn.
    """
    row, zero = 4 * inputs, i8(0)
    num_tiles = (rows + TALL - 1) // TALL
    for tile in range(num_tiles):
        first = tile * rows // num_tiles
        count = (tile + 1) * rows // num_tiles - first
        at, to = x + row * first, sums + 4 * LANES * first
        ahead = next_part if tile == num_tiles - 1 else zero
        if count == 6:
            _add_six(kind, at, row, weight, zero, depth, to, zero, ahead)
        elif count == 5:
            _add_five(kind, at, row, weight, zero, depth, to, zero, ahead)
        elif count == 4:
            _add_four(kind, at, row, weight, zero, depth, to, zero, ahead)
        else:
            _add_three(kind, at, row, weight, zero, depth, to, zero, ahead)


@part
def _meet_panels(
    kind: Any, x: int, rows: int, inputs: int, weight: int, sums: int, wide: int
) -> None:
    """The sums of many rows over PANELS panels; for very many, weights are widened once."""
    input_size = LANES * size_of(kind)
    part = DEPTH if rows > MANY else PART // input_size
    for place in range(sums, sums + 4 * LANES * PANELS * rows, 4 * LANES):
        vectors.store(place, vectors.splat(f4(0)))
    for p in range(PANELS):
        for begin in range(0, inputs, part):
            depth = min(part, inputs - begin)
            rows_at, at = x + 4 * begin, weight + (p * inputs + begin) * input_size
            to = sums + 4 * LANES * p * rows
            if rows > MANY:
                for k in range(depth):
                    vectors.store(wide + 4 * LANES * k, load(kind, at + k * input_size))
                _meet_part(FLOAT32, rows_at, rows, inputs, wide, depth, to, 0)
            else:
                _meet_part(kind, rows_at, rows, inputs, at, depth, to, depth * input_size)


@part
def _multiply_piece(kind: Any, call: int, piece: int, scratch: int) -> None:
    field = vectors.load_int
    x, rows, inputs = (
        field(call + 8 * INPUT),
        field(call + 8 * NUM_ROWS),
        field(call + 8 * NUM_INPUTS),
    )
    first, panels = piece * PANELS, field(call + 8 * NUM_PANELS)
    weight = field(call + 8 * WEIGHT) + first * inputs * LANES * size_of(kind)
    bias, output = field(call + 8 * BIAS), field(call + 8 * OUTPUT)
    output_kind = field(call + 8 * OUTPUT_KIND)
    if rows <= TALL:
        _read_panels(kind, x, rows, inputs, weight, scratch)
    else:
        wide = scratch + 4 * LANES * PANELS * rows
        _meet_panels(kind, x, rows, inputs, weight, scratch, wide)
    for p in range(PANELS):
        for row in range(rows):
            out = load(FLOAT32, scratch + 4 * LANES * (p * rows + row))
            if bias:
                out = vectors.add(out, load(FLOAT32, bias + 4 * LANES * (first + p)))
            place = (row * panels + first + p) * LANES
            if output_kind == 0:
                vectors.store(output + 4 * place, out)
            elif output_kind == 1:
                vectors.store_as(BFLOAT16, output + 2 * place, out)
            else:
                vectors.store_as(FLOAT16, output + 2 * place, out)


@part
def _multiply(kind: Any, call: int) -> None:
    field = vectors.load_int
    thread = take_ticket(call + 8 * THREAD)
    scratch = field(call + 8 * SCRATCH) + thread * field(call + 8 * SCRATCH_SIZE)
    num_pieces = field(call + 8 * NUM_PANELS) // PANELS
    piece = take_ticket(call + 8 * TICKET)
    while piece < num_pieces:
        _multiply_piece(kind, call, piece, scratch)
        piece = take_ticket(call + 8 * TICKET)


def _multiply_float32(call: int) -> None:
    _multiply(FLOAT32, call)


def _multiply_bfloat16(call: int) -> None:
    _multiply(BFLOAT16, call)


def _multiply_float16(call: int) -> None:
    _multiply(FLOAT16, call)


_ENTRIES = {
    "float32": _multiply_float32,
    "bfloat16": _multiply_bfloat16,
    "float16": _multiply_float16,
}


@cache
def product_kernel(kind: str) -> Any:
    """The kernel for weights of a type; every thread that takes part calls it with its call."""
    return entry(_ENTRIES[kind])
