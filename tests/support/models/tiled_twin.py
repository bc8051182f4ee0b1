"""Stand-ins for what only a GPU has: the tiled kernels in plain torch, and CUDA graphs.

`attend_tiled` reads the same block of integers as the kernel, one row after the other, so that a
row's bits depend on its own words; products are those of a processor.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from verifier.cache.slot_layers import SlotLayer
from verifier.kernels import tiled_layout as layout
from verifier.model.captured import Graph, Outputs
from verifier.model.packed_weight import Product


def attend_tiled(
    layer: SlotLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    has_window: bool,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What the kernel in Triton computes, by the formula."""
    place = layer.owner.placement
    assert place.block is not None
    numbers = place.block.numbers.tolist()
    assert query.shape[2] == place.block.num_rows
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])
    rows = [_row(numbers, index) for index in range(numbers[layout.NUM_ROWS])]
    for index, row in enumerate(rows):
        layer.keys[:, row[layout.PLACE]] = key[0, :, index]
        layer.values[:, row[layout.PLACE]] = value[0, :, index]
    window = place.window if has_window else 0
    for index, row in enumerate(rows):
        places = _places(numbers, row)[-window:] if window else _places(numbers, row)
        output[index] = _attended(
            query[0, :, index],
            layer.keys[:, places],
            layer.values[:, places],
            scaling,
            softcap,
            sinks,
        )
    return output


def _row(numbers: list[int], index: int) -> list[int]:
    at = layout.HEADER + layout.ROW_FIELDS * index
    return numbers[at : at + layout.ROW_FIELDS]


def _places(numbers: list[int], row: list[int]) -> list[int]:
    """Where a row finds its positions, from the first one on."""
    pages = numbers[layout.PAGES_AT] + row[layout.PAGE_AT]
    others = numbers[layout.PLACES_AT] + row[layout.OTHERS_AT] - row[layout.SETTLED]
    return [
        numbers[pages + position // layout.BLOCK] * layout.BLOCK + position % layout.BLOCK
        if position < row[layout.SETTLED]
        else numbers[others + position]
        for position in range(row[layout.POSITION] + 1)
    ]


def _attended(
    query: Tensor,  # [heads, dim]
    keys: Tensor,  # [key heads, positions, dim]
    values: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    # In float64, and on copies, since torch's sums round by where numbers lie in memory.
    query, keys, values = (part.double().contiguous() for part in (query, keys, values))
    group = len(query) // len(keys)
    scores = torch.einsum("hd,hpd->hp", query, keys.repeat_interleave(group, 0)) * scaling
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None]], 1)
    weights = torch.softmax(scores, 1)[:, : keys.shape[1]]
    return torch.einsum("hp,hpd->hd", weights, values.repeat_interleave(group, 0))


class RecordedGraph:
    """Stands in for a CUDA graph: replaying calls what was captured, and fills its outputs."""

    def __init__(self, run: Callable[[], Outputs], outputs: Outputs) -> None:
        self._run, self._outputs = run, outputs
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1
        for output, found in zip(self._outputs, self._run(), strict=True):
            output.copy_(found)


class Recorder:
    """Stands in for what captures on a GPU; keeps the graphs."""

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Graph, Outputs]:
        outputs = tuple(output.clone() for output in run())
        graph = RecordedGraph(run, outputs)
        self.graphs.append(graph)
        return graph, outputs


def twin_module() -> Any:
    """What stands in for `verifier.model.tiled`, which needs Triton."""
    return SimpleNamespace(attend_tiled=attend_tiled, TiledProduct=Product)
