"""How the passes of a model on a GPU are launched, and what is needed for it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from verifier.model.captured import Capture, CudaCapture
from verifier.model.compilation import Compiler


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
