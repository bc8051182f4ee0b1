"""A real gRPC drafter whose answers a test decides: wrong, late, malformed, or none at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceServicer, add_DrafterServiceServicer_to_server

Answer = Callable[[pb.DraftRequest], Awaitable[pb.DraftResponse]]


class FakeDrafter(DrafterServiceServicer):
    """Answers every request with `answer`, and remembers the requests."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[pb.DraftRequest] = []

    async def Draft(
        self, request_iterator: AsyncIterator[pb.DraftRequest], context: object
    ) -> AsyncIterator[pb.DraftResponse]:
        async for request in request_iterator:
            self.requests.append(request)
            yield await self.answer(request)


class RunningDrafter:
    """A FakeDrafter on a port of its own, which it keeps over restarts."""

    def __init__(self, answer: Answer) -> None:
        self.servicer = FakeDrafter(answer)  # type: ignore[abstract]  # only Draft is called
        self.address = "127.0.0.1:0"
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> "RunningDrafter":
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_DrafterServiceServicer_to_server(self.servicer, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        await self._server.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """Drop every stream at once."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)


def asked(request: pb.DraftRequest) -> list[tuple[int, int]]:
    """(sequence id, max nodes) of the sequences that want a draft."""
    entries: list[pb.Open | pb.Observe] = [*request.open, *request.observe]
    return [(entry.sequence_id, entry.max_nodes) for entry in entries if entry.max_nodes]


async def never(request: pb.DraftRequest) -> pb.DraftResponse:
    """Hang."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
