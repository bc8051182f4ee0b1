"""Whole passes as CUDA graphs, one for each number of rows that passes are padded to.

A graph replays what was launched once: nothing of a model's Python runs. What changes from pass to
pass is one block of integers, which is copied to the same place before each replay; what a graph
leaves lies in the same place after each, until the next one.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.cache.placement import PassBlock
from verifier.kernels import tiled_layout as layout

logger = logging.getLogger(__name__)

ROW_BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
# Integers beyond the rows and pieces of work: places of drafts, pages of sequences.
BLOCK_ROOM = 1 << 18
WARM_UPS = 2

Outputs = tuple[Tensor, ...]


class Graph(Protocol):
    """What was launched, to be launched again."""

    def replay(self) -> None:
        """Launch it; its outputs are written anew."""
        ...


Capture = Callable[[Callable[[], Outputs]], tuple[Graph, Outputs]]


class CudaCapture:
    """Captures on a GPU; graphs share their memory, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Graph, Outputs]:
        """Run a few times, so that all is compiled and allocated, then note what is launched."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = run()
        return graph, outputs


class CapturedPasses:
    """Graphs of passes; made when first asked for, and replayed from then on."""

    def __init__(
        self,
        run: Callable[[PassBlock], Outputs],
        capture: Capture,
        *,
        tile_rows: int,
        num_works: Callable[[int], int],
        device: torch.device,
    ) -> None:
        """`num_works`: the pieces of work that passes of so many rows have room for."""
        self._run, self._capture = run, capture
        rooms = {rows: num_works(rows) for rows in ROW_BUCKETS}
        most = layout.ROW_FIELDS * ROW_BUCKETS[-1] + layout.WORK_FIELDS * max(rooms.values())
        # Full of zeros it is a pass without rows. Every graph reads this one.
        size = layout.HEADER + most + BLOCK_ROOM
        self._numbers = torch.zeros(size, dtype=torch.int32, device=device)
        self._blocks = {
            rows: PassBlock(self._numbers, rows, room, tile_rows) for rows, room in rooms.items()
        }
        self._graphs: dict[int, tuple[Graph, Outputs]] = {}

    def capture_all(self) -> None:
        """Make every graph, the largest first: the others then fit into its memory."""
        started = time.perf_counter()
        for rows in reversed(ROW_BUCKETS):
            self._graph(rows)
        seconds = time.perf_counter() - started
        logger.info("passes_captured num=%d seconds=%.1f", len(self._graphs), seconds)

    def run(self, numbers: NDArray[np.int32], num_rows: int, num_works: int) -> Outputs | None:
        """Run a pass that is padded to `num_rows`; None where no graph has room for it.

        The outputs hold until the next pass.
        """
        block = self._blocks.get(num_rows)
        if block is None or num_works > block.num_works or len(numbers) > len(self._numbers):
            return None
        graph, outputs = self._graph(num_rows)
        self._numbers[: len(numbers)].copy_(host_tensor(numbers, self._numbers), non_blocking=True)
        graph.replay()
        return outputs

    def _graph(self, num_rows: int) -> tuple[Graph, Outputs]:
        if num_rows not in self._graphs:
            self._numbers[: layout.HEADER].zero_()
            block = self._blocks[num_rows]
            self._graphs[num_rows] = self._capture(lambda: self._run(block))
        return self._graphs[num_rows]


def padded_rows(num_rows: int) -> int:
    """Rows that a pass of so many is padded to; many rows are not."""
    return next((bucket for bucket in ROW_BUCKETS if bucket >= num_rows), num_rows)


def host_tensor(numbers: NDArray[np.int32], target: Tensor) -> Tensor:
    """An array in memory that a GPU copies from while the host goes on."""
    found = torch.from_numpy(numbers)
    return found.pin_memory() if target.device.type == "cuda" else found
