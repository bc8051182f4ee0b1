"""On a CPU, multiply by weights that oneDNN has laid out once.

The stock product is slow for the few rows of a decoding step: it is several times slower for 2
to 16 rows than for one. With a prepacked weight the cost of a step grows gently with its rows,
for plain and drafted decoding alike. Which way is faster is measured per weight shape.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifier.free_memory import free_bytes

logger = logging.getLogger(__name__)

TRIAL_ROWS = (1, 8)
NUM_TRIALS = 5
# A busy machine disturbs single products; only a clear loss speaks against packing.
CLEAR_LOSS = 1.3


def pack_linears(model: nn.Module) -> int:
    """Let the linear layers multiply by packed copies where that is faster; return how many do.

    The copies double the weights' memory; without room for them nothing is packed.
    """
    linears = [module for module in model.modules() if _is_dense(module)]
    if not linears or not _can_pack(linears):
        return 0
    is_faster: dict[tuple[int, int], bool] = {}
    num_packed = 0
    with torch.inference_mode():
        for linear in linears:
            shape = (linear.out_features, linear.in_features)
            packed = _packed(linear)
            if shape not in is_faster:
                is_faster[shape] = _is_faster(packed, linear)
            if is_faster[shape]:
                linear.forward = packed  # type: ignore[method-assign, assignment]
                num_packed += 1
    logger.info("linears_packed packed=%d of=%d", num_packed, len(linears))
    return num_packed


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


def _packed(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight, TRIAL_ROWS[-1])
    bias = linear.bias

    def multiply(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

    return multiply


def _is_faster(packed: Callable[[Tensor], Tensor], linear: nn.Linear) -> bool:
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
