"""From the engine's thread to the event loop: all that a step has to say, in one call.

The engine is at most one such call ahead, so what clients are told never falls behind it.
"""

import asyncio
from collections.abc import Callable
from threading import Event

POLL_S = 1.0


class Outbox:
    """Calls to be made on the event loop, in order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[], object] = lambda: None
    ) -> None:
        """`on_error`: a call failed, and `check` says so."""
        self._loop, self._on_error = loop, on_error
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._is_empty = Event()  # on the event loop's side
        self._is_empty.set()
        self._error: Exception | None = None

    def add(self, function: Callable[..., object], *arguments: object) -> None:
        """Gather a call; made on the event loop after `send`."""
        self._calls.append((function, arguments))

    def send(self) -> None:
        """Hand over what was gathered, once the calls before it are made."""
        if not self._calls:
            return
        while not self._is_empty.wait(POLL_S):
            if self._loop.is_closed():  # nobody is there to be told
                return
        calls, self._calls = self._calls, []
        self._is_empty.clear()
        self._loop.call_soon_threadsafe(self._make, calls)

    def check(self) -> None:
        """Raise the error of a call that failed."""
        if self._error is not None:
            raise self._error

    def _make(self, calls: list[tuple[Callable[..., object], tuple[object, ...]]]) -> None:
        try:
            for function, arguments in calls:
                function(*arguments)
        except Exception as error:
            self._error = error
            self._on_error()
        finally:
            self._is_empty.set()
