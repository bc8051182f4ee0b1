"""What runs a replica: the event loop, or in tests a simulated world with its own clock."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Runtime(Protocol):
    """Time, turns and threads, as a replica needs them."""

    def now(self) -> float:
        """Return the time in seconds, which never goes back."""

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that takes long where it holds nobody up."""

    async def breathe(self) -> None:
        """Let others have a turn."""


class EventLoop:
    """The running event loop, and threads beside it."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(function, *args)

    async def breathe(self) -> None:
        await asyncio.sleep(0)
