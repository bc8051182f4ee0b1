"""On a CPU, multiply by weights that oneDNN has laid out once, with the rows that take least time.

The stock product is slow for the few rows of a decoding step: it is several times slower for 2
to 16 rows than for one. With a prepacked weight the cost of a step grows gently with its rows,
for plain and drafted decoding alike. Which way is faster is measured per weight shape. On some
processors four rows take less time than one: there, fewer are padded (`measurements.py`).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifier.cache.memory import free_bytes

logger = logging.getLogger(__name__)

TRIAL_ROWS = (1, 8)
NUM_TRIALS = 5
# A busy machine disturbs single products; only a clear loss speaks against packing.
CLEAR_LOSS = 1.3

Product = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Packing:
    """How a model's linear layers multiply."""

    num_packed: int = 0
    least_rows: int = 1  # of a packed product; fewer are padded


def pack_linears(model: nn.Module) -> Packing:
    """Let the linear layers multiply by packed copies where that is faster.

    The copies double the weights' memory; without room for them nothing is packed.
    """
    packing = Packing()
    linears = [module for module in model.modules() if _is_dense(module)]
    if not linears or not _can_pack(linears):
        return packing
    is_faster: dict[tuple[int, int], bool] = {}
    with torch.inference_mode():
        for linear in linears:
            shape = (linear.out_features, linear.in_features)
            packed = packed_product(linear, packing)
            if shape not in is_faster:
                is_faster[shape] = _is_faster(packed, linear)
            if is_faster[shape]:
                linear.forward = packed  # type: ignore[method-assign, assignment]
                packing.num_packed += 1
    logger.info("linears_packed packed=%d of=%d", packing.num_packed, len(linears))
    return packing


def _is_dense(module: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer as it is; quantizers put modules or weights of their own in its place."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter


def _can_pack(linears: list[nn.Linear]) -> bool:
    weights = [linear.weight for linear in linears]
    if any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights):
        return False
    size = sum(weight.nbytes for weight in weights)
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and size < 0.8 * free_bytes(weights[0].device)


def packed_product(linear: nn.Linear, packing: Packing) -> Product:
    """The product with a packed copy of the layer's weight, of as many rows as `packing` says."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight, TRIAL_ROWS[-1])
    bias = linear.bias

    def multiply(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

    def multiply_padded(x: Tensor) -> Tensor:
        rows = x.shape[:-1].numel()
        if rows == 0 or rows >= packing.least_rows:
            return multiply(x)
        padded = F.pad(x.reshape(rows, -1), (0, 0, 0, packing.least_rows - rows))
        return multiply(padded)[:rows].view(*x.shape[:-1], -1)

    return multiply_padded


def _is_faster(packed: Product, linear: nn.Linear) -> bool:
    """Whether the packed product takes less time over the trial row counts together."""
    packed_s = stock_s = 0.0
    for rows in TRIAL_ROWS:
        x = torch.randn(rows, linear.in_features)
        times = [
            (_seconds(lambda: packed(x)), _seconds(lambda: F.linear(x, linear.weight)))  # noqa: B023
            for _ in range(NUM_TRIALS)
        ]
        packed_s += min(t[0] for t in times)
        stock_s += min(t[1] for t in times)
    return packed_s < CLEAR_LOSS * stock_s


def _seconds(run: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
