"""Runs several pieces of work as one: if one fails or the client leaves, all are cancelled."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client hung up; nobody reads an answer."""


async def all_or_none(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run everything at once; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(piece) for piece in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def aside(work: Callable[[], Result], *, is_big: bool) -> Result:
    """Do work that takes long in a thread, so that other requests go on meanwhile."""
    return await asyncio.to_thread(work) if is_big else work()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` as long as the client stays; the request's body must have been read."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
