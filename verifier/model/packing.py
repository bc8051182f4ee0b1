"""Replaces a model's weights by ones whose products are one arithmetic for all row counts.

On a CPU they are packed copies; on a GPU the weights themselves.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from verifier.model.experts import has_experts, use_experts
from verifier.model.packed_weight import PackedWeight, Product

logger = logging.getLogger(__name__)

CHECKED_ROWS = 13  # more than two of the kernel's widest loops


class KernelError(RuntimeError):
    """A kernel computes something else than it should."""


PACKED_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def pack_weights(model: PreTrainedModel, kind: type[Product] = Product) -> int:
    """Pack every weight that multiplies rows or is looked up; return how many there were.

    `kind`: what multiplies by them; by default, a processor. Dense copies go as soon as they are
    packed. Quantizers put modules or parameters of their own in the place of a layer's; these stay.
    """
    # By weight, since a tied one has several places.
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and _is_packable(module, name, weight, on_cpu=kind is Product):
                places.setdefault(id(weight), []).append((module, name))
    packed = [_pack(same, kind) for same in places.values()]
    for dtype in {weight.kind for weight in packed}:
        _check_kernel(min((w for w in packed if w.kind == dtype), key=lambda w: w.num_bytes))
    use_experts(model)
    num_bytes = sum(weight.num_bytes for weight in packed)
    logger.info("weights_packed num=%d bytes=%d", len(packed), num_bytes)
    return len(packed)


def unpack_weights(model: PreTrainedModel, experts: str | None) -> None:
    """Put dense weights back, and transformers' own way with experts."""
    # By what multiplies, since a tied weight has several places.
    dense: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if isinstance(weight, PackedWeight):
                number = id(weight.products[0])
                if number not in dense:
                    dense[number] = nn.Parameter(weight.dense(), requires_grad=False)
                module._parameters[name] = dense[number]
    if any(has_experts(module) for module in model.modules()):
        model.set_experts_implementation(experts or "eager")


def _pack(same: list[tuple[nn.Module, str]], kind: type[Product]) -> PackedWeight:
    """Put a packed copy of a weight into all its places."""
    module, name = same[0]
    weight = module.get_parameter(name)
    packed = PackedWeight.pack(weight, is_transposed=_is_transposed(module), kind=kind)
    for module, name in same:
        # Each place shows it by a tensor of its own: a forward that is traced may meet none twice.
        module._parameters[name] = packed.again()  # type: ignore[assignment]
    return packed


def _check_kernel(weight: PackedWeight) -> None:
    """Compare each of the kernel's inner loops with torch's product: compilers err, too."""
    product = weight.products[0]
    dense = product.dense(torch.float32)
    rows = torch.linspace(-1, 1, CHECKED_ROWS * product.num_inputs, device=dense.device)
    rows = rows.view(CHECKED_ROWS, -1)
    for count in range(1, CHECKED_ROWS + 1):
        expected = F.linear(rows[:count], dense)
        error = (product(rows[:count].contiguous()) - expected).abs().max()
        if not error <= 1e-4 * (1 + expected.abs().max()):
            raise KernelError(
                f"the product of {count} rows with weights in {weight.kind} is wrong by "
                f"{error:.2g} on this machine; serve with attention=masked"
            )


def _is_packable(module: nn.Module, name: str, weight: Tensor, *, on_cpu: bool) -> bool:
    if type(weight) is not nn.Parameter or weight.dtype not in PACKED_TYPES:
        return False
    if on_cpu and weight.device.type != "cpu":
        return False
    # Other weights of three dimensions are convolutions. A GPU takes experts together, dense.
    is_expert = weight.dim() == 3 and has_experts(module) and on_cpu
    return (weight.dim() == 2 and name == "weight") or is_expert


def _is_transposed(module: nn.Module) -> bool:
    """Whether the weight is [inputs, outputs]."""
    return isinstance(module, Conv1D) or bool(getattr(module, "is_transposed", False))
