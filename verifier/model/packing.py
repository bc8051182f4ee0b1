"""On a CPU, replaces a model's weights by packed ones: one arithmetic for all row counts."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from verifier.model.packed_weight import PackedWeight

logger = logging.getLogger(__name__)

CHECKED_ROWS = 13  # more than two of the kernel's widest loops


class KernelError(RuntimeError):
    """A kernel computes something else than it should."""


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
    packed = [_pack(same) for same in places.values()]
    for kind in {weight.kind for weight in packed}:
        _check_kernel(min((w for w in packed if w.kind == kind), key=lambda w: w.num_bytes))
    if any(_has_experts(module) for module in model.modules()):
        # The one way that takes experts one after the other, as they are packed.
        model.set_experts_implementation("eager")
    num_bytes = sum(weight.num_bytes for weight in packed)
    logger.info("weights_packed num=%d bytes=%d", len(packed), num_bytes)
    return len(packed)


def _pack(same: list[tuple[nn.Module, str]]) -> PackedWeight:
    """Put a packed copy of a weight into all its places."""
    module, name = same[0]
    packed = PackedWeight.pack(module.get_parameter(name), is_transposed=_is_transposed(module))
    for module, name in same:
        module._parameters[name] = packed  # type: ignore[assignment]
    return packed


def _check_kernel(weight: PackedWeight) -> None:
    """Compare each of the kernel's inner loops with torch's product: compilers err, too."""
    product = weight.products[0]
    dense = product.dense(torch.float32)
    rows = torch.linspace(-1, 1, CHECKED_ROWS * product.num_inputs).view(CHECKED_ROWS, -1)
    for count in range(1, CHECKED_ROWS + 1):
        expected = F.linear(rows[:count], dense)
        error = (product(rows[:count].contiguous()) - expected).abs().max()
        if not error <= 1e-4 * (1 + expected.abs().max()):
            raise KernelError(
                f"the product of {count} rows with weights in {weight.kind} is wrong by "
                f"{error:.2g} on this processor; serve with attention=masked"
            )


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
