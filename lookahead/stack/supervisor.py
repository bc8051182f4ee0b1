"""Starts children of the local stack again when they die, and says so.

A child that dies soon after its start is tried less and less often. The others go on: without a
drafter or Redis answers are slower, without a verifier the gateway asks its clients to come back.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lookahead.stack.child import ChildProcess

MIN_DELAY_S, MAX_DELAY_S = 0.2, 30.0
HEALTHY_S = 30.0  # a child that lived so long is started again at once

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Fall:
    """A child that is down."""

    due: float
    delay_s: float


class Supervisor:
    """Looks after children; `look` is called often."""

    def __init__(
        self,
        children: Mapping[str, ChildProcess],
        restart: Callable[[str], None],
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._children = children
        self._restart = restart
        self._tell = tell
        self._clock = clock
        self._started = dict.fromkeys(children, clock())
        self._delays: dict[str, float] = {}
        self._down: dict[str, _Fall] = {}

    def look(self) -> None:
        """Note who died, and start those again whose time has come."""
        now = self._clock()
        for name, child in list(self._children.items()):
            if name in self._down:
                if now >= self._down[name].due:
                    self._start(name, now)
            elif child.status is not None:
                self._fall(name, child, now)

    def _fall(self, name: str, child: ChildProcess, now: float) -> None:
        was_healthy = now - self._started[name] >= HEALTHY_S
        last_s = 0.0 if was_healthy else self._delays.get(name, 0.0)
        delay_s = min(max(2 * last_s, MIN_DELAY_S), MAX_DELAY_S)
        self._delays[name] = delay_s
        self._down[name] = _Fall(now + delay_s, delay_s)
        self._tell(
            f"the {name} process ended with status {child.status}; "
            f"it is started again in {delay_s:g} s. The end of {child.log_path}:\n"
            f"{child.log_tail()}"
        )

    def _start(self, name: str, now: float) -> None:
        fall = self._down.pop(name)
        self._started[name] = now
        try:
            self._restart(name)
        except OSError as error:  # no memory, no descriptors, a full disk
            delay_s = min(2 * fall.delay_s, MAX_DELAY_S)
            self._down[name] = _Fall(now + delay_s, delay_s)
            self._tell(f"the {name} process cannot be started: {error}")
