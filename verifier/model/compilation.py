"""torch.compile over a model's layers: one compilation for all layers, and for all numbers of rows.

A layer is one graph, since its attention is one operation (`attention`). Which layer it is, it
knows by a tensor: the compiler takes a number that a module holds for a constant, and would compile
every layer anew.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from verifier.cache.slot_layers import SlotLayer

Compiler = Callable[..., Callable[..., Any]]
# Kinds of layers that a model may mix; each is compiled once.
MAX_KINDS = 32


class CompiledLayers:
    """The layers of a model, compiled in the place of their forward."""

    def __init__(self, base: nn.Module, compiler: Compiler = torch.compile) -> None:
        """`compiler`: torch.compile, or a stand-in."""
        self._layers = list(_layers(base))
        self._numbered: list[tuple[Any, int]] = [
            (module, module.layer_idx)  # type: ignore[misc]
            for module in base.modules()
            if isinstance(getattr(module, "layer_idx", None), int)
        ]
        torch._dynamo.config.recompile_limit = MAX_KINDS
        for layer in self._layers:
            layer.forward = compiler(layer.forward, fullgraph=True, dynamic=True)

    def bind(self, layers: Sequence[SlotLayer]) -> None:
        """Let them attend over the layers of a cache."""
        for module, index in self._numbered:
            module.layer_idx = layers[index].handle

    def undo(self) -> None:
        """Let all be as it was."""
        for layer in self._layers:
            del layer.forward
        for module, index in self._numbered:
            module.layer_idx = index


def _layers(base: nn.Module) -> Iterator[Any]:
    """What stands in a list and attends inside."""
    for each in base.modules():
        if isinstance(each, nn.ModuleList):
            yield from (
                layer
                for layer in each
                if any(hasattr(module, "layer_idx") for module in layer.modules())
            )
