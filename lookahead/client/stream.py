"""A running generation: iterate it for text, `events()` for runs, then read `result`.

Leaving early (close, `with`, an exception, dropping the stream) cancels the generation.
"""

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from lookahead.client.closing import Closing
from lookahead.client.errors import ServerError, from_rpc_error
from lookahead.client.responses import Collector
from lookahead.client.results import GenerationResult, Started, TokenRun


class _StreamState:
    """What both kinds of stream know about the generation so far."""

    def __init__(self, call: Any) -> None:  # grpc publishes no types for calls
        self._call = call
        self._collector = Collector()

    @property
    def started(self) -> Started | None:
        """What the server is doing; None until its first message was read."""
        return self._collector.started

    @property
    def result(self) -> GenerationResult:
        """Everything about the finished generation; an error before its end."""
        if self._collector.result is None:
            raise RuntimeError("the generation has not ended; iterate the stream first")
        return self._collector.result

    def _check_complete(self) -> None:
        if self._collector.result is None:
            raise ServerError("the server ended the stream without a final message")


class Stream(_StreamState, Closing):
    """A generation seen from plain code."""

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text as they come."""
        for run in self.events():
            if run.text:
                yield run.text

    def events(self) -> Iterator[TokenRun]:
        """Yield runs of tokens as they come."""
        try:
            for response in self._call:
                run = self._collector.take(response)
                if run is not None:
                    yield run
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            self.close()
        self._check_complete()

    def wait(self) -> GenerationResult:
        """Read to the end and return the result."""
        for _ in self.events():
            pass
        return self.result

    def close(self) -> None:
        """Cancel the generation if it still runs."""
        self._call.cancel()


class AsyncStream(_StreamState):
    """A generation seen from asyncio."""

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield pieces of text as they come."""
        async for run in self.events():
            if run.text:
                yield run.text

    async def events(self) -> AsyncIterator[TokenRun]:
        """Yield runs of tokens as they come."""
        try:
            async for response in self._call:
                run = self._collector.take(response)
                if run is not None:
                    yield run
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            self.close()
        self._check_complete()

    async def wait(self) -> GenerationResult:
        """Read to the end and return the result."""
        async for _ in self.events():
            pass
        return self.result

    def close(self) -> None:
        """Cancel the generation if it still runs."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
