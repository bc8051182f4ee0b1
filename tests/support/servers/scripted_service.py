"""A server in this process whose calls do what a test tells them to, and a channel to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc.server import RpcServer

SERVICE = "lookahead.v1.DrafterService"
TIMEOUT_S = 5.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Scripted(pb_grpc.DrafterServiceServicer):
    """Does in each rpc what the test tells it to."""

    def __init__(self, action: Callable[[], Awaitable[None]]) -> None:
        self.action = action
        self.released = asyncio.Event()

    async def Draft(
        self, request_iterator: AsyncIterator[pb.DraftRequest], context: Any
    ) -> AsyncIterator[pb.DraftResponse]:
        try:
            async for request in request_iterator:
                await self.action()
                yield pb.DraftResponse(step=request.step)
        finally:
            self.released.set()

    async def Forget(self, request: pb.ForgetRequest, context: Any) -> pb.ForgetResponse:
        await self.action()
        return pb.ForgetResponse(num_tokens=7)


@asynccontextmanager
async def running(
    servicer: Scripted, address: str = "127.0.0.1:0", *, max_concurrent_rpcs: int | None = None
) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    """Serve the script on this event loop."""
    server = RpcServer([SERVICE], max_concurrent_rpcs=max_concurrent_rpcs)
    pb_grpc.add_DrafterServiceServicer_to_server(servicer, server.grpc)
    port = await server.start(address)
    target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            yield server, channel
        finally:
            await server.stop()


async def nothing() -> None:
    """An action that does nothing."""
    return None


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    """An action that fails."""

    async def action() -> None:
        raise error

    return action


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    """What the health service says of a service."""
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    return int(reply.status)


async def failure_of(channel: grpc.aio.Channel) -> tuple[grpc.aio.AioRpcError, Any]:
    """Call Forget, which must fail; return the error and its rich status."""
    call = pb_grpc.DrafterServiceStub(channel).Forget(pb.ForgetRequest(), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value, await rpc_status.aio.from_call(call)
