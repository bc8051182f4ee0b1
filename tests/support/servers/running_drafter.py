"""A drafter in this process, and the verifier's end of its streams."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2

from drafter.api.service import NAME, DrafterService
from drafter.config import DrafterConfig
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import SharedMemory
from drafter.server import build
from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceStub, add_DrafterServiceServicer_to_server
from rpc.server import RpcServer
from rpc.tls import TlsFiles
from rpc.tracing import Tracer

TIMEOUT_S = 10.0
# Long enough that what follows its beginning is drafted with confidence.
TEXT = list(range(10, 50))
START, NEXT = TEXT[:16], TEXT[16:20]
SAID = list(range(60, 90))


@dataclass
class Drafter:
    """A running drafter, from the outside and from the inside."""

    stub: Any
    address: str
    sessions: DraftSessions
    memory: SharedMemory

    def stream(self) -> "Engine":
        return Engine(self.stub.Draft(timeout=TIMEOUT_S))

    async def describe(self, prefix: str = "") -> list[pb.NamespaceDescription]:
        request = pb.DescribeNamespacesRequest(prefix=prefix)
        return list((await self.stub.DescribeNamespaces(request, timeout=TIMEOUT_S)).namespaces)

    async def learn(self, *requests: pb.LearnRequest) -> pb.LearnResponse:
        learned: pb.LearnResponse = await self.stub.Learn(iter(requests), timeout=TIMEOUT_S)
        return learned

    async def knows(self, namespace: str, vocabulary: str = "v") -> bool:
        """Whether the namespace drafts the rest of TEXT from its beginning alone."""
        engine = self.stream()
        opening = make_open(token_ids=START, namespace=namespace, vocabulary=vocabulary)
        response = await engine.send(open=[opening])
        await engine.end()
        return drafts(response.drafts[0], NEXT)


class Engine:
    """The verifier's end of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.step = 0

    async def send(self, **fields: Any) -> pb.DraftResponse:
        self.step += 1
        await self.call.write(pb.DraftRequest(step=self.step, **fields))
        response: pb.DraftResponse = await self.call.read()
        assert response.step == self.step
        return response

    async def end(self) -> None:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF


@asynccontextmanager
async def drafter(
    *, tls: TlsFiles | None = None, tracer: Tracer | None = None, **settings: Any
) -> AsyncIterator[Drafter]:
    """Run a drafter on this event loop."""
    config = DrafterConfig(**settings)
    sessions, memory = build(config)
    server = RpcServer([NAME])
    service = DrafterService(
        sessions, memory, max_live_tokens=config.max_live_tokens, tracer=tracer
    )
    add_DrafterServiceServicer_to_server(service, server.grpc)
    port = await server.start("127.0.0.1:0", tls)
    await memory.start()
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Drafter(DrafterServiceStub(channel), address, sessions, memory)
    finally:
        await server.stop()
        await memory.stop()


def make_open(sequence_id: int = 1, **fields: Any) -> pb.Open:
    """An opening whose prompt repeats the beginning of TEXT."""
    settings: dict[str, Any] = {
        "vocabulary": "v",
        "namespace": "n",
        "token_ids": [*TEXT, *START],
        "max_nodes": 16,
        "learn": pb.LEARN_ALL,
    }
    settings.update(fields)
    settings.setdefault("num_prompt_tokens", len(settings["token_ids"]))
    return pb.Open(sequence_id=sequence_id, **settings)


def make_observe(sequence_id: int = 1, **fields: Any) -> pb.Observe:
    """An observation."""
    return pb.Observe(sequence_id=sequence_id, **fields)


def drafts(draft: pb.Draft, path: list[int]) -> bool:
    """Whether the tree holds the path from its root."""
    at = -1
    nodes = list(zip(draft.parents, draft.token_ids, strict=True))
    for token_id in path:
        if (at, token_id) not in nodes:
            return False
        at = nodes.index((at, token_id))
    return True


def field_violations(error: grpc.aio.AioRpcError, status: Any) -> dict[str, str]:
    """What the request is blamed for, by field."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    return {v.field: v.description for v in bad_request.field_violations}
