"""Writes log lines, and sums those that repeat: a fault that recurs must not fill a disk."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 10.0
MAX_LINES = 5  # of one kind in a window
KIND_CHARS = 80  # of a template that hold its event


@dataclass(slots=True)
class _Window:
    """The lines of one kind since `start`."""

    start: float
    count: int = 0


class SummingHandler(logging.StreamHandler):  # type: ignore[type-arg]  # of whatever stderr is
    """Warnings and errors of one kind: some as they are, then their number.

    A kind is a place in the code: its logger and template, whatever the arguments. Lines that tell
    of what was done, one for each request, are never summed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        now = self._clock()
        self._tell_sums(now)
        if record.levelno >= logging.WARNING:
            kind = (record.name, str(record.msg)[:KIND_CHARS])
            window = self._windows.setdefault(kind, _Window(now))
            window.count += 1
            if window.count > MAX_LINES:
                return
        super().emit(record)

    def close(self) -> None:
        """Tell what is still untold."""
        self._tell_sums(float("inf"))
        super().close()

    def _tell_sums(self, now: float) -> None:
        over = [kind for kind, w in self._windows.items() if now - w.start >= WINDOW_S]
        for kind in over:
            num_untold = self._windows.pop(kind).count - MAX_LINES
            if num_untold > 0:
                super().emit(_sum_of(kind, num_untold))


def _sum_of(kind: tuple[str, str], count: int) -> logging.LogRecord:
    name, template = kind
    event = template.split(" ", 1)[0].strip()
    message, arguments = "repeated line=%s more=%d in_s=%d", (event, count, int(WINDOW_S))
    return logging.LogRecord(name, logging.WARNING, "", 0, message, arguments, None)
