"""torch.compile over a model's layers, for the row counts of `row_buckets` and no other shape.

The attention over slots, and the writing of keys and values, stay as they are between the compiled
parts: what they read changes at every step. On a GPU the compiled parts are replayed as CUDA
graphs. The output layer stays uncompiled too, since the number of rows that want logits varies.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
GPU_ROW_BUCKETS = (*ROW_BUCKETS, 96, 128, 192, 256, 384, 512)
# CUDA graphs warm up in the first pass of a size, are recorded in the second and replayed then.
GPU_REPEATS = 3


def row_buckets(device: torch.device) -> tuple[int, ...]:
    """The sizes of passes that are compiled."""
    return ROW_BUCKETS if device.type == "cpu" else GPU_ROW_BUCKETS


def padded_rows(num_rows: int, device: torch.device) -> int | None:
    """Rows of the pass that `num_rows` are padded to; None where it is not compiled."""
    return next((bucket for bucket in row_buckets(device) if bucket >= num_rows), None)


logger = logging.getLogger(__name__)

Compile = Callable[..., Callable[..., Any]]


class CompiledLayers:
    """A model's layers, compiled where the shape is a bucket's. Replaces their forward."""

    def __init__(self, base: nn.Module, device: torch.device, compiler: Compile) -> None:
        """`compiler`: torch.compile, or a stand-in."""
        self._plain = base.forward
        self._replays = device.type == "cuda"
        self._buckets = row_buckets(device)
        _share_code(base)
        # Each bucket is a compilation of its own, and a layer may need more than one.
        torch._dynamo.config.recompile_limit = 4 * len(self._buckets)
        mode = "reduce-overhead" if self._replays else "default"
        self._compiled = compiler(base.forward, dynamic=False, mode=mode)
        base.forward = self._run

    def _run(self, *arguments: Any, **inputs: Any) -> Any:
        ids = arguments[0] if arguments else inputs["input_ids"]  # as models hand it down
        if ids is None or ids.shape[1] not in self._buckets:
            return self._plain(*arguments, **inputs)
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._compiled(*arguments, **inputs)


def _share_code(base: nn.Module) -> None:
    """Let layers that do the same run the same compiled code.

    The compiler takes an integer that a module holds for a constant and a tensor for an input, so
    with an integer for its number every layer is compiled anew, until there are too many.
    """
    for module in base.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = torch.tensor(module.layer_idx)


def compile_buckets(run: Callable[[int], object], device: torch.device) -> None:
    """Run passes of each size, so that no request waits for the compiler."""
    for rows in row_buckets(device):
        started = time.perf_counter()
        for _ in range(GPU_REPEATS if device.type == "cuda" else 1):
            run(rows)
        logger.info("compiled rows=%d seconds=%.1f", rows, time.perf_counter() - started)
