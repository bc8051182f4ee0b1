"""uvicorn's HTTP/1.1, with a deadline for everything that a client has to do.

uvicorn itself waits without end for the rest of a request and for a client to read on.
"""

import asyncio
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.connections import Connections

# The application refuses a slow body in its own words; this is for requests that it does not read.
BODY_GRACE_S = 1.0
# What a client does not read must be seen by whoever writes it.
WRITE_BUFFER_BYTES = 1 << 14


class TimedProtocol(H11Protocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: GatewayConfig,
        counted: Connections,
    ) -> None:
        super().__init__(config, state, app_state)
        self._limits = limits
        self._counted = counted
        self._address = ""
        self._awaited: type[h11.Event] | None = None  # what the client is sending
        self._deadline: asyncio.TimerHandle | None = None
        self._read_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._address = self.client[0] if self.client else ""
        self._counted.add(self, self._address)
        self._await(h11.Request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counted.remove(self, self._address)
        self._await(None)
        self._stop_read_deadline()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # a connection that was dropped may still have bytes on their way
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._begin_read_deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_deadline()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.drop()  # a close would wait for what the client does not read
        super().timeout_keep_alive_handler()

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        self.transport.abort()

    def _watch(self) -> None:
        """Follow whose turn it is, and set the client's deadline when its turn begins."""
        if self.transport.is_closing():
            self._await(None)
            self._begin_read_deadline()  # what is sent already may never be read
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        their_state = self.conn.their_state
        awaited: type[h11.Event] | None = None
        if their_state is h11.SEND_BODY:
            awaited = h11.EndOfMessage
        elif their_state is h11.IDLE and self.conn.trailing_data[0]:
            awaited = h11.Request
        self._await(awaited)
        if is_answering and awaited is None:
            self._counted.work(self, self._address)
        else:
            self._counted.wait(self, self._address)

    def _await(self, awaited: type[h11.Event] | None) -> None:
        if awaited is self._awaited:
            return  # each byte of a request must not begin its time anew
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if awaited is h11.Request:
            self._deadline = self.loop.call_later(self._limits.header_timeout_s, self._refuse)
        elif awaited is h11.EndOfMessage:
            limit_s = self._limits.read_timeout_s + BODY_GRACE_S
            self._deadline = self.loop.call_later(limit_s, self.drop)

    def _refuse(self) -> None:
        """End a connection on which no request arrived; say so where one had begun."""
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n")
        self.transport.close()
        self._watch()

    def _begin_read_deadline(self) -> None:
        self._stop_read_deadline()
        self._read_deadline = self.loop.call_later(self._limits.write_timeout_s, self.drop)

    def _stop_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None
