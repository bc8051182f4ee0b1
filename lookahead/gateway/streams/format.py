"""What each public API makes of an answer: one body, or the events of a stream."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice, Piece
from lookahead.gateway.errors import ApiError


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    data: dict[str, Any] | str
    name: str = ""  # empty: it has none


class Stream(Protocol):
    """The events of one answer, in their order."""

    def begin(self, choice: Choice) -> Iterable[Event]:
        """What a choice begins with, before there is any text."""
        ...

    def add(self, choice: Choice, piece: Piece) -> Iterable[Event]:
        """What a piece adds to its choice."""
        ...

    def end(self) -> Iterable[Event]:
        """What follows the last piece of all choices."""
        ...

    def fail(self, error: ApiError) -> Iterable[Event]:
        """What ends a stream that fails."""
        ...


class Format(Protocol):
    """The answers of one public API."""

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a finished answer."""
        ...

    def stream(self, answer: Answer) -> Stream:
        """Return what writes the answer as a stream."""
        ...
