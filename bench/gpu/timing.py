"""Times of calls on a device: by its own events where it has some, and by the clock on the wall."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Times:
    """Medians over rounds, in milliseconds."""

    device_ms: float  # between the first and the last operation on the device
    wall_ms: float  # until the device is done


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_times(
    run: Callable[[], object], device: torch.device, *, rounds: int, warm_up: int = 2
) -> Times:
    """Call `run` again and again; the first calls do not count."""
    for _ in range(warm_up):
        run()
    once = _on_gpu if device.type == "cuda" else _on_cpu
    each = [once(run, device) for _ in range(rounds)]
    device_ms, wall_ms = map(statistics.median, zip(*each, strict=True))
    return Times(device_ms, wall_ms)


def _on_gpu(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    wait(device)
    first, last = (_event() for _ in range(2))
    started = time.perf_counter()
    first.record()
    run()
    last.record()
    wait(device)
    return first.elapsed_time(last), 1e3 * (time.perf_counter() - started)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _on_cpu(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    started = time.perf_counter()
    run()
    ms = 1e3 * (time.perf_counter() - started)
    return ms, ms
