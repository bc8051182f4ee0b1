"""Where a step's time goes on the device: the longest kernels, and how long it is idle."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from bench.gpu.answers import EMBEDDED, answering, workloads
from bench.gpu.lab import Lab
from bench.gpu.report import Note, Result
from bench.serving.engine import StepRecorder
from bench.serving.figures import Figure
from verifier.engine.counters import StepStats

SECTION = "profile"
NUM_KERNELS = 25


def profiled(lab: Lab) -> Iterator[Result]:
    """Drafted steps of one stream, and of as many as there are."""
    for streams in (lab.sizes.streams[0], lab.sizes.streams[-1]):
        steps = ProfiledSteps(streams, lab.sizes.profiled_steps, is_gpu=lab.device.type == "cuda")
        asyncio.run(_run(lab, streams, steps))
        yield from _figures(f"{streams} streams", steps)
        path = lab.out / f"profile-{streams}.json.gz"
        steps.profile.export_chrome_trace(str(path))
        yield Note(SECTION, f"{streams} streams: trace", path.name)


async def _run(lab: Lab, streams: int, steps: "ProfiledSteps") -> None:
    requests = next(iter(workloads(lab).values()))[:streams]
    async with answering(lab, lab.served(), EMBEDDED, steps) as running:
        await running.force(requests, streams)


class ProfiledSteps(StepRecorder):
    """Profiles the first steps in which all streams decode."""

    def __init__(self, streams: int, num_steps: int, *, is_gpu: bool) -> None:
        super().__init__()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
        everywhere = _ExperimentalConfig(profile_all_threads=True)  # passes have their own thread
        self.profile = profile(activities=kinds, experimental_config=everywhere)
        self.wall_s = 0.0
        self.device = "CUDA" if is_gpu else "CPU"
        self.num_steps = self._num_left = num_steps
        self._streams, self._started = streams, 0.0

    def count_step(self, stats: StepStats) -> None:
        """Count; begin after a step as is wanted, end after so many more."""
        super().count_step(stats)
        if self._started and self._num_left:
            self._num_left -= 1
            if not self._num_left:
                self.wall_s = time.perf_counter() - self._started
                self.profile.stop()
        elif not self._started and stats.num_decoding == self._streams:
            self.profile.start()
            self._started = time.perf_counter()


def _figures(title: str, steps: ProfiledSteps) -> Iterator[Result]:
    assert steps.wall_s, f"{title}: the answers were over too soon"
    found: Any = steps.profile.events()  # type: ignore[no-untyped-call]
    events = [event for event in found if _is_work(event, steps.device)]
    busy_us = covered((e.time_range.start, e.time_range.end) for e in events)
    wall_us = 1e6 * steps.wall_s
    count = steps.num_steps
    yield Figure(SECTION, f"{title}: a profiled step", wall_us / count / 1e3, "ms")
    yield Figure(SECTION, f"{title}: operations on the device, per step", len(events) / count, "")
    yield Figure(SECTION, f"{title}: device idle", 100 * (1 - busy_us / wall_us), "%")
    kernels = longest(events, count)
    first = next(iter(kernels), "nothing")
    yield Note(SECTION, f"{title}: longest kernels", first[:60], kernels)


def _is_work(event: Any, device: str) -> bool:
    return event.device_type.name == device and not event.is_user_annotation


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The time in which at least one of them lies."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def longest(events: Iterable[Any], num_steps: int) -> dict[str, object]:
    """Microseconds and calls per step of the kernels that take most, by name."""
    times: dict[str, list[float]] = {}
    for event in events:
        times.setdefault(event.name, []).append(event.time_range.elapsed_us())
    order = sorted(times, key=lambda name: sum(times[name]), reverse=True)
    return {
        name: {"us": sum(times[name]) / num_steps, "calls": len(times[name]) / num_steps}
        for name in order[:NUM_KERNELS]
    }
