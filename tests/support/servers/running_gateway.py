"""Gateways on one event loop in a thread of its own.

One loop, since grpc.aio knows one event loop per process only; in a thread, so that plain clients
and other processes can be their users.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, TypeVar

from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.process import bind, make_server

TIMEOUT_S = 30.0

Value = TypeVar("Value")


class Host:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run to the end from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    @contextmanager
    def holding(self, context: AbstractAsyncContextManager[Value]) -> Iterator[Value]:
        """Enter an asynchronous context there for the length of a `with` block here."""
        value = self.run(context.__aenter__())
        try:
            yield value
        finally:
            self.run(context.__aexit__(None, None, None))


@contextmanager
def host() -> Iterator[Host]:
    """A running host."""
    running = Host()
    thread = threading.Thread(target=running.loop.run_forever, name="host")
    thread.start()
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(running.loop.stop)
        thread.join(TIMEOUT_S)
        running.loop.close()


@asynccontextmanager
async def gateway(verifier: str, **settings: Any) -> AsyncIterator[str]:
    """A gateway on a free port; gives its address, host:port."""
    config = GatewayConfig(listen="127.0.0.1:0", verifier=verifier, **settings)
    with bind(config.listen) as bound:
        server = make_server(config)
        server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
        serving = asyncio.create_task(server.serve([bound]))
        try:
            yield f"127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
