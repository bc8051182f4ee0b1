"""Runs sections in their order, each within its own share of the time, whatever becomes of others.

A section's limit is its share of what is left, so what one does not use is there for the next.
"""

import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.gpu.lab import Lab
from bench.gpu.report import Report, Result


@dataclass(frozen=True, slots=True)
class Section:
    """One question; `share_s`: the seconds that it should need."""

    name: str
    share_s: float
    run: Callable[[Lab], Iterable[Result]]


RING_AGAIN_S = 5.0


class OutOfTime(KeyboardInterrupt):
    """A section's time is over: an interruption, so that nobody takes it for an error."""


class DeviceGone(RuntimeError):
    """The device answers this process no more, but perhaps another one."""

    def __init__(self, left: Sequence[str], left_s: float) -> None:
        super().__init__(f"the device is lost to this process; left: {', '.join(left)}")
        self.left = tuple(left)
        self.left_s = left_s


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so many seconds."""

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    # Again, since it is lost where it rings in a callback of C.
    signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True, slots=True)
class Runner:
    """Where results go, and how time is kept."""

    lab: Lab
    report: Report
    clock: Callable[[], float] = time.monotonic
    limited: Callable[[float], AbstractContextManager[None]] = alarm

    def run(self, sections: Sequence[Section], *, deadline_s: float) -> None:
        """Run all within the deadline; DeviceGone where only another process can go on."""
        end = self.clock() + deadline_s
        for index, section in enumerate(sections):
            left_s = end - self.clock()
            share = section.share_s / sum(each.share_s for each in sections[index:])
            self._run_section(section, left_s * share)
            left = [each.name for each in sections[index + 1 :]]
            if left and self.lab.is_lost():
                raise DeviceGone(left, end - self.clock())

    def _run_section(self, section: Section, limit_s: float) -> None:
        self.report.begin(section.name, round(limit_s, 2))
        started, status, error = self.clock(), "done", ""
        try:
            if limit_s <= 0:
                raise OutOfTime
            with self.limited(limit_s):
                self._collect(section.run(self.lab), started + limit_s)
        except OutOfTime:
            status = "out of time"
        except Exception:
            status, error = "failed", traceback.format_exc()
        if status != "done":
            self.lab.forget()
        self.report.end(section.name, status, self.clock() - started, error)

    def _collect(self, results: Iterable[Result], until: float) -> None:
        for result in results:
            self.report.add(result)
            if self.clock() >= until:
                raise OutOfTime
