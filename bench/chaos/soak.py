"""Mixed traffic with faults for a while: memory, descriptors and tasks stay what they were."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from bench.chaos.cancels import leave_for
from bench.chaos.target import POLITE, Target, target
from bench.chaos.witness import others, witness
from bench.serving.figures import Figure

SECTION = "half an hour of mixed traffic"
WARM_UP = 0.4  # of the time
SAMPLE_EVERY_S = 2.0
FAULT_EVERY_S = 45.0
STOPPED_S = 2.0
SLOPE_MB = 1.0  # an hour
WATCHED = ("verifier", "gateway")
PAUSE_S = 0.3  # between two questions of the witness
FEW = 3  # descriptors and tasks that a connection or two may hold just then


@dataclass(slots=True)
class Trail:
    """What a process held, by time."""

    seconds: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)

    def slope(self) -> float:
        """Megabytes an hour, once warm."""
        first = int(WARM_UP * len(self.mb))
        hours = np.array(self.seconds[first:]) / 3600
        return float(np.polyfit(hours, self.mb[first:], 1)[0])


def soak(seconds: float, seed: int) -> list[Figure]:
    """Clients come, ask and leave, processes are killed and stopped; the witness asks on."""
    with target() as stack:
        leave_for(stack, min(10.0, seconds / 10), seed)
        stack.wait_until_idle()
        before = _held(stack)
        with (
            witness(stack.http, POLITE, PAUSE_S) as polite,
            _sampled(stack) as trails,
            _faults(stack),
        ):
            polite.calm()
            start = polite.mark()
            leave_for(stack, seconds, seed + 1)
            seen = polite.seen(start)
        stack.wait_until_idle()
        after = _held(stack)
    return [
        Figure(SECTION, "minutes", seconds / 60, ""),
        *(
            Figure(SECTION, f"memory of the {name}, an hour", trail.slope(), "MB", at_most=SLOPE_MB)
            for name, trail in trails.items()
        ),
        *(
            Figure(SECTION, f"more {name} afterwards", after[name] - before[name], "", at_most=FEW)
            for name in before
        ),
        *others(SECTION, seen, polite.text),
    ]


def _held(stack: Target) -> dict[str, float]:
    found = {}
    for name in WATCHED:
        reading = stack.reading(name)
        found[f"descriptors of the {name}"] = reading.value("process_open_fds")
        found[f"tasks of the {name}"] = reading.value("event_loop_tasks")
    return found


@contextmanager
def _sampled(stack: Target) -> Iterator[dict[str, Trail]]:
    trails = {name: Trail() for name in WATCHED}
    began = time.monotonic()

    def sample() -> None:
        for name, trail in trails.items():
            trail.seconds.append(time.monotonic() - began)
            trail.mb.append(stack.resident_mb(name))

    with _repeating(sample, SAMPLE_EVERY_S):
        yield trails


@contextmanager
def _faults(stack: Target) -> Iterator[None]:
    rng = random.Random(0)

    def hurt() -> None:
        name = rng.choice(["drafter", "redis"])
        if rng.random() < 0.5:
            stack.kill(name)
        else:
            stack.freeze(name, STOPPED_S)

    with _repeating(hurt, FAULT_EVERY_S):
        yield


@contextmanager
def _repeating(work: Callable[[], None], every_s: float) -> Iterator[None]:
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(every_s):
            work()

    thread = threading.Thread(target=repeat, name="chaos")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
