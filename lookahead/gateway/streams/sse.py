"""Sends an answer as server-sent events, no faster than the client reads."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookahead.client.errors import LookaheadError
from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice
from lookahead.gateway.concurrency import ClientGone, all_or_none, unless_gone
from lookahead.gateway.errors import ApiError, stopping
from lookahead.gateway.streams.format import Event, Stream
from lookahead.gateway.tolerance import ignored_header

logger = logging.getLogger(__name__)

KEEP_ALIVE = b": waiting\n\n"
COMMENT = b":\n\n"

Abort = Callable[[Scope], None]  # drops the connection of a request


class ClientTooSlow(Exception):
    """The client has not read for longer than allowed."""


class EventStream(Response):
    """The stream of one answer. When the stream ends for any reason, the answer ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        answer: Answer,
        stream: Stream,
        *,
        write_timeout_s: float,
        keep_alive_s: float,
        block_bytes: int,
        abort: Abort,
    ) -> None:
        # Proxies must pass each event on at once.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(headers=headers | ignored_header(answer.request.ignored))
        del self.headers["content-length"]
        self._answer = answer
        self._stream = stream
        self._write_timeout_s = write_timeout_s
        self._keep_alive_s = keep_alive_s
        self._block_bytes = block_bytes
        self._has_sent = asyncio.Event()
        self._abort = abort
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_all(send))
        except ClientGone:
            pass  # the generations end with the answer
        except asyncio.CancelledError:
            # The server stops. What ends without a word looks like an answer that was cut.
            await self._send_end(send, self._stream.fail(stopping()))
        except ClientTooSlow:
            logger.warning("client_too_slow request_id=%s", scope["state"]["request_id"])
            self._abort(scope)
        finally:
            self._answer.close()

    async def _send_all(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        keeping_alive = asyncio.create_task(self._keep_alive(send))
        try:
            await all_or_none(self._send_choice(send, c) for c in self._answer.choices)
            await self._send_events(send, self._stream.end())
        except ApiError as error:
            await self._send_events(send, self._stream.fail(error))
        except LookaheadError as error:
            await self._send_events(send, self._stream.fail(self._answer.explained(error)))
        finally:
            keeping_alive.cancel()
            await asyncio.wait({keeping_alive})
        await self._send_end(send, ())

    async def _send_end(self, send: Send, events: Iterable[Event]) -> None:
        await self._send_events(send, events)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """Send comments while nothing else is sent, since proxies drop silent streams."""
        while True:
            self._has_sent.clear()
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await self._has_sent.wait()
            except TimeoutError:
                # Of a slow client the answer's own events find out.
                with contextlib.suppress(ClientTooSlow):
                    await self._send(send, KEEP_ALIVE)

    async def _send_choice(self, send: Send, choice: Choice) -> None:
        await self._send_events(send, self._stream.begin(choice))
        async for piece in choice.pieces(self._answer.texts):
            await self._send_events(send, self._stream.add(choice, piece))

    async def _send_events(self, send: Send, events: Iterable[Event]) -> None:
        for event in events:
            await self._send(send, _filled(_encoded(event), self._block_bytes))

    async def _send(self, send: Send, body: bytes) -> None:
        async with self._lock:
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    # Waits while the client has not read enough of what it got.
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                self._has_sent.set()
            except TimeoutError:
                raise ClientTooSlow from None


def _encoded(event: Event) -> bytes:
    data = event.data
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    name = f"event: {event.name}\n" if event.name else ""
    return f"{name}data: {text}\n\n".encode()


def _filled(body: bytes, block_bytes: int) -> bytes:
    """An event and a comment, which all readers skip, that together are whole blocks."""
    if not block_bytes:
        return body
    missing = -(len(body) + len(COMMENT)) % block_bytes
    return body + COMMENT.replace(b"\n", b"." * missing + b"\n", 1)
