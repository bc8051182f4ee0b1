"""Products of rows and weights on a GPU, in Triton: a row's bits depend on no other row.

One shape of tile and one order along the inputs serve every number of rows. A weight with few
outputs is cut along its inputs, too, at places that depend on its own shape alone; the parts are
added in their order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from verifier.kernels.tiled_attention import precision

ROW_TILE, OUTPUT_TILE = 64, 64
NUM_STAGES = 3
ENOUGH_PROGRAMS = 128  # to keep a card busy, about as many as it has processors
MAX_PARTS = 8  # of the inputs
MIN_PART = 512  # inputs


@triton.jit
def _multiply(
    x,  # [any rows, inputs]
    weight,  # [experts, outputs, inputs], by strides
    bias,  # [experts, outputs]
    out,  # [rows, outputs], or float32 [parts, rows, outputs]
    sources,  # the row of x that each row is
    tiles,  # of experts: the expert, the first and the end row of each tile
    num_rows,
    num_outputs,
    num_inputs,
    part_inputs,
    weight_expert,  # strides
    weight_output,
    weight_input,
    HAS_BIAS: tl.constexpr,
    HAS_EXPERTS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Each result is one sum along the inputs, in their order, whatever else is in the tile."""
    tile, part = tl.program_id(0), tl.program_id(2)
    if HAS_EXPERTS:
        expert, first = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1)
        end = tl.load(tiles + 3 * tile + 2)
        weight += expert.to(tl.int64) * weight_expert
        bias += expert * num_outputs
        if first >= end:
            return
        row = first + tl.arange(0, ROWS)
        source = tl.load(sources + row, mask=row < end, other=0)
    else:
        row, end = tile * ROWS + tl.arange(0, ROWS), num_rows
        source = row
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = part * part_inputs + tl.arange(0, INPUTS)
    stop = tl.minimum((part + 1) * part_inputs, num_inputs)
    a_at = x + source.to(tl.int64)[:, None] * num_inputs + k[None, :]
    b_at = (
        weight
        + output.to(tl.int64)[None, :] * weight_output
        + k.to(tl.int64)[:, None] * weight_input
    )
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(part * part_inputs, stop, INPUTS):
        inside = start + tl.arange(0, INPUTS) < stop
        a = tl.load(a_at, mask=(row < end)[:, None] & inside[None, :], other=0.0)
        b = tl.load(b_at, mask=(output < num_outputs)[None, :] & inside[:, None], other=0.0)
        sums = tl.dot(a, b.to(a.dtype), sums, input_precision=PRECISION)
        a_at += INPUTS
        b_at += INPUTS * weight_input
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=output < num_outputs, other=0.0).to(tl.float32)[None, :]
    to = (part * num_rows + row).to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(
        out + to,
        sums.to(out.dtype.element_ty),
        mask=(row < end)[:, None] & (output < num_outputs)[None, :],
    )


@triton.jit
def _add_parts(
    parts,  # float32 [parts, numbers]
    bias,
    out,  # [numbers]
    numbers,
    num_outputs,
    num_parts,
    HAS_BIAS: tl.constexpr,
    SIZE: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < numbers
    sums = tl.zeros([SIZE], tl.float32)
    for part in range(num_parts):
        sums += tl.load(parts + part * numbers + at, mask=inside, other=0.0)
    if HAS_BIAS:
        sums += tl.load(bias + at % num_outputs, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=inside)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [rows, inputs], contiguous, times weight [outputs, inputs]; the result has x's type."""
    num_rows, num_inputs = x.shape
    num_outputs = len(weight)
    num_parts = parts_of(num_outputs, num_inputs)
    out = x.new_empty(num_rows, num_outputs)
    to = out
    if num_parts > 1:
        to = x.new_empty(num_parts, num_rows, num_outputs, dtype=torch.float32)
    held = weight[None]
    _launch(
        (-(-num_rows // ROW_TILE), num_parts),
        (x, held, bias if num_parts == 1 else None, to, x, x, num_rows),
    )
    if num_parts > 1:
        _add_parts[(-(-out.numel() // 1024),)](
            to,
            out if bias is None else bias,
            out,
            out.numel(),
            num_outputs,
            num_parts,
            HAS_BIAS=bias is not None,
            SIZE=1024,
            num_warps=4,
        )
    return out


def multiply_by_expert(
    x: Tensor,  # [any rows, inputs], contiguous
    weight: Tensor,  # [experts, outputs, inputs], in any layout
    bias: Tensor | None,  # [experts, outputs]
    sources: Tensor,  # [rows] the row of x that each row is; rows are in the order of experts
    experts: Tensor,  # [rows] rising
) -> Tensor:
    """Each row times its expert's weight, [rows, outputs]; nothing waits for the device."""
    out = x.new_empty(len(sources), weight.shape[1])
    tiles = tiles_of(experts, len(weight))
    _launch((len(tiles), 1), (x, weight, bias, out, sources, tiles, len(sources)), has_experts=True)
    return out


def _launch(
    grid: tuple[int, int], arguments: tuple[Any, ...], *, has_experts: bool = False
) -> None:
    x, weight, bias, out, sources, tiles, num_rows = arguments
    num_outputs, num_inputs = weight.shape[1:]
    num_tiles, num_parts = grid
    inputs = input_tile(x)
    part = -(-num_inputs // num_parts // inputs) * inputs if num_parts > 1 else num_inputs
    _multiply[(num_tiles, -(-num_outputs // OUTPUT_TILE), num_parts)](
        x,
        weight,
        out if bias is None else bias,
        out,
        sources,
        tiles,
        num_rows,
        num_outputs,
        num_inputs,
        part,
        *weight.stride(),
        HAS_BIAS=bias is not None,
        HAS_EXPERTS=has_experts,
        PRECISION=precision(x),
        ROWS=ROW_TILE,
        OUTPUTS=OUTPUT_TILE,
        INPUTS=inputs,
        num_warps=num_warps(x.element_size()),
        num_stages=NUM_STAGES,
    )


def parts_of(num_outputs: int, num_inputs: int) -> int:
    """Into how many parts the inputs are cut: more where there are few outputs."""
    parts = 1
    programs = -(-num_outputs // OUTPUT_TILE)
    while parts < MAX_PARTS and parts * programs < ENOUGH_PROGRAMS:
        if num_inputs < 2 * parts * MIN_PART:
            break
        parts *= 2
    return parts


def num_warps(item_size: int) -> int:
    """Warps of a program: as many as keep its sums in registers."""
    return 4 if item_size == 2 else 8


def input_tile(x: Tensor) -> int:
    """Inputs that a program takes at a time."""
    return 64 if x.element_size() == 2 else 32


def tiles_of(experts: Tensor, num_experts: int) -> Tensor:
    """int32 [tiles, 3]: the expert, the first and the end row of each; the last may be empty.

    Their number depends on the numbers of rows and experts alone.
    """
    num_rows = len(experts)
    num_tiles = min(num_rows, -(-num_rows // ROW_TILE) + num_experts)
    bounds = torch.arange(num_experts + 1, device=experts.device, dtype=experts.dtype)
    starts = torch.searchsorted(experts, bounds)  # [experts + 1] first row of each
    counts = (starts[1:] - starts[:-1] + ROW_TILE - 1) // ROW_TILE
    ends = counts.cumsum(0)
    tile = torch.arange(num_tiles, device=experts.device)
    expert = torch.searchsorted(ends, tile, right=True).clamp(max=num_experts - 1)
    first = starts[expert] + (tile - ends[expert] + counts[expert]) * ROW_TILE
    end = torch.minimum(first + ROW_TILE, starts[expert + 1])
    return torch.stack([expert, first, torch.maximum(end, first)], 1).int()


KERNELS: dict[str, Any] = {"multiply": _multiply, "add_parts": _add_parts}
