"""On a CPU, replaces a model's weights by packed ones: one arithmetic for all row counts."""

import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from verifier.model.packed_weight import PackedWeight

logger = logging.getLogger(__name__)

PACKED_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def pack_weights(model: PreTrainedModel) -> int:
    """Pack every weight that multiplies rows or is looked up; return how many there were.

    Dense copies go as soon as they are packed. Quantizers put modules or parameters of their own in
    the place of a layer's; these stay.
    """
    # By weight, since a tied one has several places.
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and _is_packable(module, name, weight):
                places.setdefault(id(weight), []).append((module, name))
    num_bytes = 0
    for same in places.values():
        module, name = same[0]
        dense = module.get_parameter(name)
        packed = PackedWeight.pack(dense, is_transposed=_is_transposed(module))
        del dense
        for module, name in same:
            module._parameters[name] = packed  # type: ignore[assignment]
        num_bytes += packed.num_bytes
    if any(_has_experts(module) for module in model.modules()):
        # The one way that takes experts one after the other, as they are packed.
        model.set_experts_implementation("eager")
    logger.info("weights_packed num=%d bytes=%d", len(places), num_bytes)
    return len(places)


def _is_packable(module: nn.Module, name: str, weight: Tensor) -> bool:
    if type(weight) is not nn.Parameter or weight.device.type != "cpu":
        return False
    if weight.dtype not in PACKED_TYPES:
        return False
    # Other weights of three dimensions are convolutions.
    return (weight.dim() == 2 and name == "weight") or (weight.dim() == 3 and _has_experts(module))


def _has_experts(module: nn.Module) -> bool:
    return hasattr(module, "gate_up_proj") and hasattr(module, "down_proj")


def _is_transposed(module: nn.Module) -> bool:
    """Whether the weight is [inputs, outputs]."""
    return isinstance(module, Conv1D) or bool(getattr(module, "is_transposed", False))
