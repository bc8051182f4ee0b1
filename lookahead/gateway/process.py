"""One gateway process from start to end: bind, serve, drain, stop."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from lookahead.gateway.app import create_app
from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.verifiers import Verifiers
from rpc.server import SIGNALS
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 1 << 16
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """uvicorn, ending with status 0 when it is asked to stop."""

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
            if isinstance(connection, H11Protocol) and connection.client == scope["client"]:
                connection.transport.abort()

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
    server = Server(_settings(config))
    verifiers = Verifiers(
        config.verifiers, connect_timeout_s=config.connect_timeout_s, tls=config.tls()
    )
    server.config.app = create_app(config, verifiers, server.abort, tracer)
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
        # Longer than clients keep idle connections, so that none is closed as it is used again.
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=config.drain_s,
    )


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
