"""Children that die are started again, ever later while they die at once."""

from pathlib import Path
from typing import Any

from lookahead.stack.supervisor import HEALTHY_S, MAX_DELAY_S, MIN_DELAY_S, Supervisor


class Child:
    """One that dies when told to."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.log_path = Path("child.log")

    def log_tail(self) -> str:
        return "its last words"


class Nursery:
    """Children, a clock, and what is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.starts: list[float] = []
        self.error: OSError | None = None
        self.children: Any = {"drafter": Child(), "verifier": Child()}
        self.supervisor = Supervisor(
            self.children, self.restart, self.told.append, lambda: self.now
        )

    def restart(self, name: str) -> None:
        if self.error is not None:
            raise self.error
        self.starts.append(self.now)
        self.children[name] = Child()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 1)
            self.supervisor.look()


def test_one_that_dies_is_started_again_and_its_death_is_told() -> None:
    nursery = Nursery()
    nursery.pass_time(HEALTHY_S)
    assert not nursery.starts
    nursery.children["drafter"].status = -9
    nursery.pass_time(1)
    assert len(nursery.starts) == 1
    assert nursery.children["drafter"].status is None
    [line] = nursery.told
    assert "drafter process ended with status -9" in line
    assert "its last words" in line


def test_one_that_dies_at_once_is_tried_ever_later() -> None:
    nursery = Nursery()
    gaps = []
    for _ in range(12):
        died = nursery.now
        nursery.children["verifier"].status = 1
        count = len(nursery.starts)
        while len(nursery.starts) == count:
            nursery.pass_time(0.1)
        gaps.append(round(nursery.starts[-1] - died, 1))
    assert gaps == sorted(gaps)
    assert gaps[0] <= 0.5
    assert MAX_DELAY_S <= gaps[-1] <= MAX_DELAY_S + 0.5
    nursery.pass_time(HEALTHY_S)
    nursery.children["verifier"].status = 1
    nursery.pass_time(MIN_DELAY_S + 0.2)
    assert len(nursery.starts) == 13


def test_one_that_cannot_be_started_is_told_and_tried_again() -> None:
    nursery = Nursery()
    nursery.error = OSError("no memory")
    nursery.children["drafter"].status = -9
    nursery.pass_time(2)
    assert sum("cannot be started: no memory" in line for line in nursery.told) >= 2
    nursery.error = None
    nursery.pass_time(5)
    assert len(nursery.starts) == 1
