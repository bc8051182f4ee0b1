"""What the sections share: the device, one served model at a time, recorded answers, a drafter."""

import gc
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import PreTrainedModel

from bench.gpu import shapes
from bench.gpu.sizes import Sizes
from bench.gpu.timing import measure_times, wait
from bench.serving.engine import running_drafter
from verifier.config import VerifierConfig
from verifier.engine.counters import StepStats
from verifier.model.ladder import choose_way
from verifier.model.measurements import Measurements, measure
from verifier.model.model import TargetModel


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model as it is to be served."""

    shape: str
    dtype: torch.dtype
    attention: str = "auto"
    num_slots: int = 1


@dataclass
class Served:
    """A model as it is served, and what that took."""

    wanted: Wanted
    model: TargetModel
    num_bytes: int
    read_bytes: int  # of the weights, in each step
    sharpness: shapes.Sharpness
    build_s: float
    form_s: float
    allocated: tuple[int, int]  # bytes on the device with the weights, and with the cache

    @cached_property
    def measured(self) -> Measurements:
        """Its step curve, as the verifier measures it when it starts."""
        return measure(self.model)


@dataclass
class Lab:
    """Owns the device's memory: asking for another model lets go of the one before."""

    device: torch.device
    shape: str
    small_shape: str  # where the size of the model does not matter
    sizes: Sizes
    out: Path
    traces: Path | None
    exits: ExitStack
    # Steps by (workload, streams, way), for whoever looks at them again.
    steps: dict[tuple[str, int, str], list[StepStats]] = field(default_factory=dict)
    _served: Served | None = None

    @property
    def dtype(self) -> torch.dtype:
        """In which models are served here, where the type is not the question."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def config(self) -> VerifierConfig:
        """The settings of a verifier on this device."""
        settings: dict[str, Any] = {"model": self.shape, "device": self.device.type}
        return VerifierConfig(**settings)

    @property
    def attentions(self) -> Sequence[str]:
        """The kinds of attention that the settings know; not each runs on each device."""
        known = get_args(VerifierConfig.model_fields["attention"].annotation)
        return [name for name in known if name != "auto"]

    def served(
        self,
        *,
        shape: str | None = None,
        dtype: torch.dtype | None = None,
        attention: str = "auto",
        num_slots: int | None = None,
    ) -> Served:
        """A model as the verifier would serve it, loaded if it is not the one from before."""
        wanted = Wanted(
            shape or self.shape, dtype or self.dtype, attention, num_slots or self.sizes.slots
        )
        if self._served is None or self._served.wanted != wanted:
            self.forget()
            self._served = serve(wanted, self.device, self.config, self.sizes.max_context)
        return self._served

    def stock(self, shape: str) -> PreTrainedModel:
        """The model as transformers runs it; the served one is let go of."""
        self.forget()
        return shapes.build(shape, dtype=self.dtype, device=self.device)

    def forget(self) -> None:
        """Let go of the served model."""
        self._served = None
        free(self.device)

    def is_lost(self) -> bool:
        """Whether the device answers this process no more."""
        try:
            torch.ones(1, device=self.device).add_(1).item()
        except RuntimeError:
            return True
        return False

    @cached_property
    def bandwidth(self) -> float:
        """Bytes that a copy on the device reads and writes in a second."""
        size = self.sizes.copied_bytes
        source, target = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in "12")
        times = measure_times(lambda: target.copy_(source), self.device, rounds=self.sizes.rounds)
        return 2 * size / (1e-3 * times.device_ms)

    @cached_property
    def drafter(self) -> str:
        """The address of a drafter in a process of its own."""
        return self.exits.enter_context(running_drafter())


def serve(wanted: Wanted, device: torch.device, config: VerifierConfig, max_context: int) -> Served:
    """Build a model and set it up as the verifier does when it starts."""
    started = time.perf_counter()
    hf = shapes.build(wanted.shape, dtype=wanted.dtype, device=device)
    sharpness = shapes.sharpness(hf)
    num_bytes, read_bytes = shapes.num_bytes(hf), shapes.read_bytes(hf)
    wait(device)
    built, with_weights = time.perf_counter(), allocated(device)
    model = TargetModel(hf, wanted.shape, max_context=max_context, attention=wanted.attention)
    choose_way(
        model,
        hf,
        graphs=config.graphs,
        num_slots=wanted.num_slots,
        draft_rows=1 + config.max_nodes,
        kv_memory=config.kv_memory,
        may_shrink=True,
    )
    wait(device)
    return Served(
        wanted=wanted,
        model=model,
        num_bytes=num_bytes,
        read_bytes=read_bytes,
        sharpness=sharpness,
        build_s=built - started,
        form_s=time.perf_counter() - built,
        allocated=(with_weights, allocated(device)),
    )


def allocated(device: torch.device) -> int:
    """Bytes in use: on a GPU by tensors, on a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 4096 * pages


def free(device: torch.device) -> None:
    """Give back what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # a lost device gives nothing back
            torch.cuda.empty_cache()
