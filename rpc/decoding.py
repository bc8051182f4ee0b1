"""Requests that are no valid protocol buffer: gRPC answers them with UNKNOWN and a traceback.

They are passed on as a mark instead, so that the handler's wrapper refuses them like others.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from rpc.errors import InvalidRequest

Decode = Callable[[bytes], Any]


class Undecodable:
    """Stands for a request that cannot be read."""


def tolerant(decode: Decode | None) -> Decode | None:
    """Return a decoder that marks what it cannot read; None stays None."""
    if decode is None:
        return None

    def decode_or_mark(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return Undecodable()

    return decode_or_mark


def checked(request: Any) -> Any:
    """Return a request, or a stream whose requests are checked; or raise InvalidRequest."""
    if isinstance(request, Undecodable):
        raise InvalidRequest.at("request", "is not a valid protocol buffer message")
    return CheckedStream(request) if isinstance(request, AsyncIterator) else request


class CheckedStream(AsyncIterator[Any]):
    """A client's stream that ends with InvalidRequest where a message cannot be read."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests

    async def __anext__(self) -> Any:
        return checked(await anext(self._requests))
