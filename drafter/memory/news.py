"""One reader for all spaces: hears which ones changed, from a stream that every writer adds to.

What it hears are hints. One may be lost, so each space is also looked at from time to time.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from drafter.memory.turns import going_on

if TYPE_CHECKING:
    from drafter.log.redis_log import RedisLog

_PAUSE_S = 0.25


class News:
    """Tells of each change, and of each time when some may have been missed."""

    def __init__(
        self, log: "RedisLog", *, changed: Callable[[bytes], None], missed: Callable[[], None]
    ) -> None:
        self._log, self._changed, self._missed = log, changed, missed
        self._cursor: str | None = None
        # When the stream last had no more to tell; None while it does not answer.
        self.heard_at: float | None = None

    def restart(self) -> None:
        """Go to the stream's end: it may be another one now."""
        self._cursor = self.heard_at = None

    async def run(self) -> None:
        """Listen until cancelled."""
        while going_on():
            try:
                await self._listen()
            except ConnectionError:
                self.restart()
                await asyncio.sleep(_PAUSE_S)

    async def _listen(self) -> None:
        if self._cursor is None:
            self._cursor = await self._log.news_end()
            self._missed()
        cursor = self._cursor
        last, names = await self._log.news(cursor)
        if cursor != self._cursor:
            return  # restarted meanwhile
        self._cursor = last
        self.heard_at = asyncio.get_running_loop().time()
        for name in names:
            self._changed(name)
