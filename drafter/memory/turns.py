"""Whose turn it is: all spaces share a few workers, so idle ones cost neither tasks nor calls.

A space that asks twice before its turn gets one turn; one that asks during its turn gets another.
Tenants take turns, too, so that one with very many spaces keeps nobody waiting but itself.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from drafter.memory.room import tenant_of

logger = logging.getLogger(__name__)

# So many retries a second at most, however many spaces fail.
_RETRIES_PER_S = 400.0

# Takes a space's turn; returns after how many seconds the next is due, None where nothing is.
Take = Callable[[str], Awaitable[float | None]]


class TurnQueue:
    """Each tenant's spaces in the order in which they asked, and those whose turn it is."""

    def __init__(self) -> None:
        self._due: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._running: dict[str, bool] = {}  # whether it asked again meanwhile

    def ask(self, space: str) -> None:
        """Put a space at the end of the queue, unless it stands there."""
        if space in self._running:
            self._running[space] = True
        else:
            self._due.setdefault(tenant_of(space), OrderedDict()).setdefault(space)

    def begin(self) -> str | None:
        """Return whose turn begins now, None where nobody asks."""
        if not self._due:
            return None
        tenant, spaces = self._due.popitem(last=False)
        space, _ = spaces.popitem(last=False)
        if spaces:
            self._due[tenant] = spaces
        self._running[space] = False
        return space

    def end(self, space: str) -> None:
        """End a space's turn; one that asked meanwhile is due again."""
        if self._running.pop(space):
            self.ask(space)

    def withdraw(self, space: str) -> bool:
        """Take a space out of the queue; False while its turn runs, and then nothing changed."""
        if space in self._running:
            return False
        tenant = tenant_of(space)
        spaces = self._due.get(tenant, OrderedDict())
        spaces.pop(space, None)
        if not spaces:
            self._due.pop(tenant, None)
        return True

    def waits(self, space: str) -> bool:
        """Tell whether a space is due, or has its turn."""
        return space in self._running or space in self._due.get(tenant_of(space), ())


class Turns:
    """Runs the turns, a few side by side, and keeps those that are to come later."""

    def __init__(self, take: Take, *, num_workers: int) -> None:
        self._take, self._num_workers = take, num_workers
        self._queue = TurnQueue()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._ready = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take turns."""
        for number in range(self._num_workers):
            self._workers.append(asyncio.create_task(self._work(), name=f"turns {number}"))

    async def stop(self) -> None:
        """End the running turns; those who wait keep their places."""
        for space in list(self._later):
            self.ask(space)
        await end(self._workers)
        self._workers = []

    def ask(self, space: str) -> None:
        """Have a space take a turn as soon as it can."""
        handle = self._later.pop(space, None)
        if handle is not None:
            handle.cancel()
        self._queue.ask(space)
        self._ready.set()

    def ask_later(self, space: str, seconds: float) -> None:
        """Have a space take a turn after a while; later still where very many wait like this."""
        if space in self._later or self._queue.waits(space):
            return
        delay_s = max(seconds, len(self._later) / _RETRIES_PER_S)
        loop = asyncio.get_running_loop()
        self._later[space] = loop.call_later(delay_s, self.ask, space)

    def withdraw(self, space: str) -> bool:
        """Let a space take no more turns; False while one runs, and then nothing changed."""
        if not self._queue.withdraw(space):
            return False
        handle = self._later.pop(space, None)
        if handle is not None:
            handle.cancel()
        return True

    def waits(self, space: str) -> bool:
        """Tell whether a space is due, or has its turn."""
        return self._queue.waits(space)

    async def _work(self) -> None:
        while going_on():
            space = self._queue.begin()
            if space is None:
                self._ready.clear()
                await self._ready.wait()
                continue
            pause_s: float | None = 1.0
            try:
                pause_s = await self._take(space)
            except Exception:
                logger.exception("turn failed space=%s", space)
            finally:
                self._queue.end(space)
            if pause_s is not None:
                self.ask_later(space, pause_s)


def going_on() -> bool:
    """Tell whether this task may go on; some library calls swallow the exception that ends it."""
    task = asyncio.current_task()
    return task is None or not task.cancelling()


async def end(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel tasks until they are done."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)
