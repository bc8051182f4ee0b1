"""A TCP proxy in front of a server that loses, delays and cuts."""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection

from bench.topologies.server import free_port


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


class ProxyProcess:
    """A proxy in a process of its own, so that it takes no time from the event loop here."""

    def __init__(self, target_port: int, *, only_after: bytes) -> None:
        """`only_after`: replies are lost only to what contains these bytes."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (target_port, only_after, theirs)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.url: str = self._pipe.recv()

    def lose_replies(self, number: int) -> int:
        """Lose that many from now on; return how many were lost so far."""
        self._pipe.send(number)
        return int(self._pipe.recv())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _run(target_port: int, only_after: bytes, pipe: Connection) -> None:
    asyncio.run(_serve(target_port, only_after, pipe))


async def _serve(target_port: int, only_after: bytes, pipe: Connection) -> None:
    proxy = Proxy(target_port)
    proxy.only_after = only_after
    await proxy.start()
    pipe.send(proxy.url)
    while True:
        proxy.lose_replies = await asyncio.to_thread(pipe.recv)
        pipe.send(proxy.lost)
