"""One gateway process from start to end: bind, serve, drain, stop."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import Scope

from lookahead.gateway.app import create_app
from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.connections import Connections
from lookahead.gateway.protocol import TimedProtocol
from lookahead.gateway.verifiers import Verifiers
from rpc.server import SIGNALS
from rpc.tls import HttpsContext
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 1 << 15
ACCEPT_RETRY_S = 0.5
LAST_WORDS_S = 1.0
MAX_HANDSHAKES = 256  # at once; each takes a millisecond unless its client waits
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\r\n"


class Server(uvicorn.Server):
    """uvicorn, ending with status 0 when it is asked to stop.

    It accepts connections itself: the event loop's own way logs two thousand errors a second once
    descriptors run out, and knows no limit.
    """

    def __init__(self, config: GatewayConfig) -> None:
        super().__init__(_settings(config))
        self.connections = Connections(
            limit=config.max_connections, limit_per_address=config.max_connections_per_address
        )
        self._limits = config
        files = config.https()
        self._https = HttpsContext(files) if files else None
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for listening in sockets or []:
            self._accepting.append(asyncio.create_task(self._accept(listening)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = [*self._accepting, *self._handshakes]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await super().shutdown(sockets)
        if running := set(self.server_state.tasks):
            # Cancelled at the end of the drain, they still tell their clients so.
            await asyncio.wait(running, timeout=LAST_WORDS_S)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # no descriptors or memory left, or the client has gone
                logger.warning("accept_failed error=%s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES or not self.connections.admit(address[0]):
                _refuse(connection)
            elif self._https is None:
                await loop.connect_accepted_socket(self._protocol, connection)
            else:
                task = loop.create_task(self._shake_hands(connection, self._https.current()))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """Begin a connection of HTTPS; one that is no such thing is closed."""
        with suppress(OSError):  # of which SSL's errors are, and time-outs
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._limits.header_timeout_s,
                ssl_shutdown_timeout=1.0,
            )

    def _protocol(self) -> TimedProtocol:
        return TimedProtocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            limits=self._limits,
            counted=self.connections,
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop, number.name)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def abort(self, scope: Scope) -> None:
        """Drop the connection of a request; what its client has not read is gone."""
        for connection in self.server_state.connections:
            if isinstance(connection, TimedProtocol) and connection.client == scope["client"]:
                connection.drop()

    def _stop(self, name: str) -> None:
        logger.info("stopping signal=%s", name)
        self.force_exit = self.should_exit  # a second signal stops at once
        self.should_exit = True


async def serve(config: GatewayConfig, tracer: Tracer | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running requests then have `drain_s` to finish."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with bind(config.listen) as bound:
        server = make_server(config, tracer)
        host, port = bound.getsockname()[:2]
        logger.info("listening address=%s port=%d keys=%d", host, port, len(config.api_keys()))
        await server.serve([bound])
        logger.info("stopped")


def make_server(config: GatewayConfig, tracer: Tracer | None = None) -> Server:
    """Return a server whose `serve` wants a socket; to be called on its event loop."""
    server = Server(config)
    verifiers = Verifiers(
        config.verifiers,
        connect_timeout_s=config.connect_timeout_s,
        tls=config.tls(),
        key=config.verifier_key.get_secret_value(),
    )
    server.config.app = create_app(config, verifiers, server.connections, server.abort, tracer)
    return server


def _settings(config: GatewayConfig) -> uvicorn.Config:
    return uvicorn.Config(
        "",  # the application needs the server
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        loop="asyncio",
        http="h11",
        ws="none",
        timeout_keep_alive=config.idle_timeout_s,
        timeout_graceful_shutdown=config.drain_s,
    )


def _refuse(connection: socket.socket) -> None:
    """Turn a connection away without waiting for its client."""
    with connection, suppress(OSError):
        connection.send(REFUSAL)


@contextmanager
def bind(listen: str) -> Iterator[socket.socket]:
    """Open the listening socket; OSError names an address that is taken."""
    host, _, port = listen.rpartition(":")
    try:
        family, *_, where = socket.getaddrinfo(host.strip("[]"), int(port))[0]
        bound = socket.create_server(where[:2], family=family, backlog=1024)
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error}") from error
    with bound:
        # Connections inherit it: what a client does not read must not fill the system's memory.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # And this, which asyncio sets for sockets of its own only: an event goes out at once.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield bound
