"""Experts of a layer as one operation of a traced forward, whichever of them the rows choose.

On a CPU transformers' own code takes the chosen experts one after the other, and looks on the host
which they are. It is the one that reads packed weights, and inside one operation it may look. On a
GPU all of them are taken together, and nothing waits for the device.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from verifier.kernels.handles import Handles
from verifier.model.packed_weight import PackedWeight

NAME = "lookahead"
_MODULES: Handles[nn.Module] = Handles()


def use_experts(model: PreTrainedModel) -> None:
    """Let the model's experts, if it has any, run here."""
    found = [module for module in model.modules() if has_experts(module)]
    for module in found:
        module.expert_handle = _MODULES.give(module)
    if found:
        ALL_EXPERTS_FUNCTIONS.register(NAME, run_experts)
        model.set_experts_implementation(NAME)


def has_experts(module: nn.Module) -> bool:
    """Whether a module holds the weights of experts."""
    return hasattr(module, "gate_up_proj") and hasattr(module, "down_proj")


def run_experts(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """What the experts make of rows [rows, hidden], each of which has chosen some."""
    if torch.compiler.is_compiling():
        found: Tensor = torch.ops.lookahead.experts(module.expert_handle, hidden, index, weights)
        return found
    return _run(module, hidden, index, weights)


def _run(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    run = _one_by_one if isinstance(module.down_proj, PackedWeight) else _together
    return run(module, hidden, index, weights)


def _one_by_one(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    own: Any = type(module).forward
    found: Tensor = own.__wrapped__(module, hidden, index, weights)
    return found


def _together(module: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Each pair of a row and an expert as a row of its own, in the order of the experts."""
    from verifier.model.tiled import multiply_by_expert

    num_rows, num_chosen = index.shape
    experts, order = torch.sort(index.reshape(-1), stable=True)

    def multiplied(x: Tensor, name: str, sources: Tensor) -> Tensor:
        weight = getattr(module, name)
        weight = weight.transpose(1, 2) if module.is_transposed else weight
        bias = getattr(module, f"{name}_bias") if module.has_bias else None
        return multiply_by_expert(x, weight, bias, sources, experts)

    inner = multiplied(hidden, "gate_up_proj", order // num_chosen)
    inner = module._apply_gate(inner)
    found = multiplied(inner, "down_proj", torch.arange(len(order), device=order.device))
    if module.has_post_expert_norm:
        found = module.post_expert_norm(found)
    weighted = torch.empty_like(found)
    weighted[order] = found * weights.reshape(-1)[order, None].to(found.dtype)
    return weighted.view(num_rows, num_chosen, -1).sum(1).to(hidden.dtype)


@torch.library.custom_op("lookahead::experts", mutates_args=())
def experts_operation(
    module: Tensor,  # its handle
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
) -> Tensor:
    """The experts as one node of a traced forward."""
    # A traced forward runs without what packed weights live by.
    with torch._C._EnableTorchFunction():
        return _run(_MODULES[module], hidden, index, weights)


@experts_operation.register_fake
def _(module: Tensor, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(hidden)
