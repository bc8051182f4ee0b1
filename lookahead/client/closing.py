"""What is closed at the end of its `with` or `async with` block."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from types import TracebackType
from typing import Self


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClosing(ABC):
    """The same for asyncio."""

    @abstractmethod
    def close(self) -> Awaitable[None] | None:
        """Give back what it holds, at once or when awaited."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = self.close()
        if closing is not None:
            await closing
