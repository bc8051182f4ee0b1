"""Ends a call whose client has stopped reading: what it holds is for those who wait."""

import asyncio
from types import TracebackType


class WriteTimeout:
    """`with` this around handing over a message; made and used in the task of the call.

    When a message is not taken within the limit, the task is cancelled, which resets the stream.
    """

    def __init__(self, limit_s: float) -> None:
        self.has_expired = False
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._expire)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.has_expired = True
        if self._task is not None:
            self._task.cancel()
