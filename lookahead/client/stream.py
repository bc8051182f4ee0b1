"""A running generation: iterate it for text, `events()` for runs, then read `result`.

Leaving early (close, `with`, an exception, dropping the stream) cancels the generation.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from lookahead.client.closing import AsyncClosing, Closing
from lookahead.client.errors import ServerError, translated
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

    def close(self) -> None:
        """Cancel the generation if it still runs."""
        self._call.cancel()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Close after the last message; raise our exceptions, also where that one is missing."""
        try:
            with translated():
                yield
        finally:
            self.close()
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
        with self._reading():
            for response in self._call:
                run = self._collector.take(response)
                if run is not None:
                    yield run

    def wait(self) -> GenerationResult:
        """Read to the end and return the result."""
        for _ in self.events():
            pass
        return self.result


class AsyncStream(_StreamState, AsyncClosing):
    """A generation seen from asyncio."""

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield pieces of text as they come."""
        async for run in self.events():
            if run.text:
                yield run.text

    async def events(self) -> AsyncIterator[TokenRun]:
        """Yield runs of tokens as they come."""
        with self._reading():
            async for response in self._call:
                run = self._collector.take(response)
                if run is not None:
                    yield run

    async def wait(self) -> GenerationResult:
        """Read to the end and return the result."""
        async for _ in self.events():
            pass
        return self.result
