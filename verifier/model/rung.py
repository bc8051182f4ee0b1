"""Which kernels compute the passes of a model, how these are launched, and what that needs."""

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from verifier.cache.placement import Kernel
from verifier.model.captured import Capture, CudaCapture
from verifier.model.compilation import Compiler
from verifier.model.packing import KernelError


class Rung(enum.Enum):
    """How passes are launched, the fastest way first."""

    COMPILED = "compiled and captured"
    CAPTURED = "captured"
    EAGER = "eager"


@dataclass(frozen=True, slots=True)
class Tools:
    """What compiles layers and captures passes; tests have stand-ins."""

    compiler: Compiler = torch.compile
    capture: Callable[[], Capture] = CudaCapture


def kernel_for(attention: str, device: torch.device) -> Kernel:
    """`auto`: each row by its positions, on a GPU where Triton is installed."""
    has_triton = find_spec("triton") is not None
    if attention == "auto" and device.type == "cpu":
        return Kernel.POSITIONAL
    if attention == "auto":
        return Kernel.TILED if device.type == "cuda" and has_triton else Kernel.MASKED
    kernel = Kernel(attention)
    if kernel is Kernel.POSITIONAL and device.type != "cpu":
        raise KernelError(f"attention=positional runs on a CPU only, not on {device}")
    if kernel is Kernel.TILED and not has_triton:
        raise KernelError("attention=tiled needs Triton, which is not installed")
    if kernel is Kernel.TILED and device.type == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        raise KernelError("attention=tiled runs on a GPU only, or in Triton's interpreter")
    return kernel
