"""One gRPC server: how every process of ours binds, says that it is ready, drains and stops.

`NOT_SERVING` from the bind until `mark_serving`, and again, for good, once it drains.
"""

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpc.interceptor import StatusInterceptor
from rpc.tls import TlsFiles, server_credentials

logger = logging.getLogger(__name__)

# A prompt of a million tokens is about 3 MB on the wire.
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_CONNECTIONS = 2048
DRAIN_LIMIT_S = 86_400.0  # never reached: `drain` and the grace after it end sooner
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerFailed(RuntimeError):
    """The process cannot go on serving, and says why."""


class RpcServer:
    """A `grpc.aio` server with health, reflection and our statuses."""

    def __init__(
        self,
        service_names: Sequence[str],
        *,
        max_streams_per_connection: int = 1024,
        max_concurrent_rpcs: int | None = None,
    ) -> None:
        self._interceptor = StatusInterceptor(max_concurrent_rpcs)
        self.grpc = grpc.aio.server(
            interceptors=[self._interceptor],
            options=_options(max_streams_per_connection),
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflected = [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(reflected, self.grpc)
        self._service_names = ["", *service_names]
        self._received: asyncio.Queue[str] = asyncio.Queue()  # names of signals
        self._failure = ""

    @property
    def draining(self) -> bool:
        """Whether new calls are refused."""
        return self._interceptor.draining

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """How many calls ended, by method and status; health and reflection apart."""
        return self._interceptor.calls

    async def start(self, address: str, tls: TlsFiles | None = None) -> int:
        """Bind `address` (host:port or unix:path), not serving yet; return the bound port.

        OSError where the address is taken or a file of `tls` cannot be read.
        """
        _check_port(address)
        for name in self._service_names:
            await self.set_health(name, serving=False)
        try:
            port = self._bind(address, tls)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address!r}: {error}") from error
        await self.grpc.start()
        logger.info("listening address=%s port=%d security=%s", address, port, _security(tls))
        return port

    def _bind(self, address: str, tls: TlsFiles | None) -> int:
        if tls is None:
            return int(self.grpc.add_insecure_port(address))
        return int(self.grpc.add_secure_port(address, server_credentials(tls)))

    async def set_health(self, name: str, *, serving: bool) -> None:
        """Set what the health service says about `name`."""
        states = health_pb2.HealthCheckResponse
        await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def mark_serving(self) -> None:
        """Announce that calls are welcome."""
        for name in self._service_names:
            await self.set_health(name, serving=True)
        logger.info("serving")

    def fail(self, reason: str) -> None:
        """End `run_until_signalled` with a ServerFailed; the process can serve no more."""
        self._failure = reason
        self._received.put_nowait("none")

    async def run_until_signalled(
        self, *, drain: Callable[[], Awaitable[None]] | None = None, grace_s: float
    ) -> None:
        """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal stops at once."""
        with _signals(self._received) as received:
            name = await received.get()
            logger.info("stopping signal=%s", name)
            if self._failure:
                await self.stop(grace_s=grace_s)
                raise ServerFailed(self._failure)
            stopping = asyncio.create_task(self.stop(drain=drain, grace_s=grace_s))
            again = asyncio.create_task(received.get())
            try:
                await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
                if not stopping.done():
                    logger.warning("stopping_now signal=%s", again.result())
                    stopping.cancel()
                    await self.grpc.stop(None)
            finally:
                again.cancel()
                await asyncio.wait({stopping, again})
        if not stopping.cancelled():
            stopping.result()

    async def stop(
        self, *, drain: Callable[[], Awaitable[None]] | None = None, grace_s: float = 0.0
    ) -> None:
        """Send clients elsewhere, `drain`, then give what still runs `grace_s` to end."""
        self._interceptor.draining = True
        await self._health.enter_graceful_shutdown()
        # Closes the port and tells clients to connect anew (HTTP/2 GOAWAY); calls go on.
        closing = asyncio.create_task(self.grpc.stop(DRAIN_LIMIT_S))
        try:
            if drain is not None:
                await drain()
            await asyncio.wait({closing}, timeout=grace_s)
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        await self.grpc.stop(None)
        logger.info("stopped")


def _options(max_streams_per_connection: int) -> list[tuple[str, int]]:
    return [
        # Without this two servers on one port would silently share its calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", max_streams_per_connection),
        # What a client does not read must be seen by whoever writes it.
        ("grpc.http2.write_buffer_size", 8_192),
        # Find clients that vanished without a word.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Ours ping every 30 s; others may every 10 s, which is the least that gRPC allows them,
        # and between their calls. More often, and they are sent away.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # Who connects and says nothing, or has nothing to say any more.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ]


def _security(tls: TlsFiles | None) -> str:
    if tls is None:
        return "none"
    return "mutual-tls" if tls.ca else "tls"


def _check_port(address: str) -> None:
    """Refuse what grpc would quietly take modulo 65536."""
    port = address.rpartition(":")[2]
    if not address.startswith("unix:") and not (port.isdecimal() and int(port) < 65536):
        raise OSError(f"cannot listen on {address!r}: want host:port or unix:path")


@contextmanager
def _signals(received: asyncio.Queue[str]) -> Iterator[asyncio.Queue[str]]:
    """Collect the names of the signals that ask this process to stop."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, received.put_nowait, number.name)
    try:
        yield received
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
