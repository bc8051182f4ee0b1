"""A server in this process, a channel to it, and every way a call can end."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc.errors import (
    RETRY_AFTER_S,
    FieldViolation,
    InvalidRequest,
    ResourceExhausted,
    RetryLater,
    Unavailable,
)
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
    servicer: Scripted, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    server = RpcServer([SERVICE])
    pb_grpc.add_DrafterServiceServicer_to_server(servicer, server.grpc)
    port = await server.start(address)
    target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(target) as channel:
        yield server, channel
        await server.stop()


async def nothing() -> None:
    return None


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def action() -> None:
        raise error

    return action


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    return int(reply.status)


async def failure_of(channel: grpc.aio.Channel) -> tuple[grpc.aio.AioRpcError, Any]:
    """Call Forget, which must fail; return the error and its rich status."""
    call = pb_grpc.DrafterServiceStub(channel).Forget(pb.ForgetRequest(), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value, await rpc_status.aio.from_call(call)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest.at("f", "bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (ResourceExhausted("full", retry_after_s=1.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Unavailable("away", retry_after_s=1.5), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_each_exception_has_its_status(error: Exception, code: grpc.StatusCode) -> None:
    async with running(Scripted(raising(error))) as (_, channel):
        raised, _ = await failure_of(channel)
        assert (raised.code(), raised.details()) == (code, str(error))


async def test_calls_are_counted_by_method_and_status() -> None:
    async with running(Scripted(nothing)) as (server, channel):
        stub = pb_grpc.DrafterServiceStub(channel)
        await stub.Forget(pb.ForgetRequest(), timeout=TIMEOUT_S)
        await health_of(channel, SERVICE)
    assert server.calls == {("Forget", "OK"): 1}
    async with running(Scripted(raising(InvalidRequest.at("f", "bad")))) as (server, channel):
        await failure_of(channel)
    assert server.calls == {("Forget", "INVALID_ARGUMENT"): 1}
    async with running(Scripted(raising(ValueError("a bug")))) as (server, channel):
        await failure_of(channel)
    assert server.calls == {("Forget", "INTERNAL"): 1}


async def test_a_call_that_its_client_cancels_is_counted_as_cancelled() -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    async with running(Scripted(hang)) as (server, channel):
        call = pb_grpc.DrafterServiceStub(channel).Forget(pb.ForgetRequest())
        async with asyncio.timeout(TIMEOUT_S):
            # Sent once somebody waits for it.
            waiting = asyncio.ensure_future(call.code())
            await reached.wait()
            call.cancel()
            await waiting
            while not server.calls:
                await asyncio.sleep(0)
        assert server.calls == {("Forget", "CANCELLED"): 1}


async def test_bad_requests_name_every_field_and_its_value() -> None:
    error = InvalidRequest(
        FieldViolation("observe[2].token_ids[5]", "too large, got 4294967295"),
        FieldViolation("open[0].max_nodes", "too many, got 900"),
    )
    async with running(Scripted(raising(error))) as (_, channel):
        _, status = await failure_of(channel)
        bad_request = error_details_pb2.BadRequest()
        assert status.details[0].Unpack(bad_request)
        assert [(v.field, v.description) for v in bad_request.field_violations] == [
            ("observe[2].token_ids[5]", "too large, got 4294967295"),
            ("open[0].max_nodes", "too many, got 900"),
        ]


async def test_hostile_values_do_not_overflow_the_status() -> None:
    value = "x" * 1_000_000
    violations = [InvalidRequest.at("f", "bad", value).violations[0]] * 10_000
    async with running(Scripted(raising(InvalidRequest(*violations)))) as (_, channel):
        raised, status = await failure_of(channel)
        assert raised.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert status.ByteSize() < 8_192


@pytest.mark.parametrize(
    ("error", "delay_s"),
    [
        (ResourceExhausted("full", retry_after_s=1.5), 1.5),
        (Unavailable("away"), RETRY_AFTER_S),
    ],
)
async def test_busy_servers_say_when_to_retry(error: RetryLater, delay_s: float) -> None:
    async with running(Scripted(raising(error))) as (_, channel):
        _, status = await failure_of(channel)
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1000 * delay_s


async def test_surprises_become_internal_and_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(Scripted(raising(RuntimeError("secret")))) as (_, channel):
        with caplog.at_level(logging.ERROR):
            raised, _ = await failure_of(channel)
    assert raised.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.details())
    # gRPC's own poller may complain of a busy machine.
    records = [r for r in caplog.records if r.levelno >= logging.ERROR and r.name != "asyncio"]
    assert len(records) == 1 and records[0].exc_info is not None
    assert f"method=/{SERVICE}/Forget" in records[0].message


async def test_streams_translate_exceptions_too() -> None:
    servicer = Scripted(raising(InvalidRequest.at("step", "must increase", 3)))
    async with running(servicer) as (_, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S)
        await call.write(pb.DraftRequest(step=3))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "step: must increase, got 3"
        await asyncio.wait_for(servicer.released.wait(), TIMEOUT_S)


@pytest.mark.parametrize("waits_in", ["reading", "working"])
async def test_a_cancelled_stream_is_released_in_silence(
    waits_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    working = asyncio.Event()

    async def work_for_ever() -> None:
        working.set()
        await asyncio.Event().wait()

    servicer = Scripted(nothing if waits_in == "reading" else work_for_ever)
    async with running(servicer) as (_, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S)
        await call.write(pb.DraftRequest(step=1))
        await (call.read() if waits_in == "reading" else working.wait())
        call.cancel()
        await asyncio.wait_for(servicer.released.wait(), TIMEOUT_S)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_client_that_never_reads_and_leaves_is_released(
    caplog: pytest.LogCaptureFixture,
) -> None:
    servicer = Scripted(nothing)
    async with running(servicer) as (_, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S)
        for step in range(100):
            await call.write(pb.DraftRequest(step=step))
        call.cancel()
        await asyncio.wait_for(servicer.released.wait(), TIMEOUT_S)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_health_is_not_serving_until_ready() -> None:
    async with running(Scripted(nothing)) as (server, channel):
        for name in ("", SERVICE):
            assert await health_of(channel, name) == NOT_SERVING
        await server.mark_serving()
        for name in ("", SERVICE):
            assert await health_of(channel, name) == SERVING


async def test_unknown_health_names_are_not_found() -> None:
    async with running(Scripted(nothing)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_draining_server_hands_its_clients_to_its_successor() -> None:
    old = RpcServer([SERVICE])
    pb_grpc.add_DrafterServiceServicer_to_server(Scripted(nothing), old.grpc)
    address = f"127.0.0.1:{await old.start('127.0.0.1:0')}"
    async with grpc.aio.insecure_channel(address) as channel:
        call = pb_grpc.DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S)
        await call.write(pb.DraftRequest(step=1))
        assert (await call.read()).step == 1
        is_replaced = asyncio.Event()
        stopping = asyncio.create_task(old.stop(drain=is_replaced.wait, grace_s=TIMEOUT_S))
        new = await bound(address)
        await new.mark_serving()
        assert await health_of_successor(channel) == SERVING
        is_replaced.set()
        await call.write(pb.DraftRequest(step=2))
        assert (await call.read()).step == 2
        await call.done_writing()
        await asyncio.wait_for(stopping, TIMEOUT_S)
        await new.stop()


async def health_of_successor(channel: grpc.aio.Channel) -> int:
    """Ask until a server answers: gRPC cancels calls that reach the old one before the news do."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return await health_of(channel, "")
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


async def bound(address: str) -> RpcServer:
    """Start a server on an address that another one is about to leave."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            server = RpcServer([SERVICE])
            try:
                await server.start(address)
                return server
            except OSError:
                await server.stop()


async def test_draining_lets_running_streams_finish() -> None:
    async with running(Scripted(nothing)) as (server, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S)
        await call.write(pb.DraftRequest(step=1))
        assert (await call.read()).step == 1
        stopping = asyncio.create_task(server.stop(grace_s=TIMEOUT_S))
        await call.write(pb.DraftRequest(step=2))
        assert (await call.read()).step == 2
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await asyncio.wait_for(stopping, TIMEOUT_S)


async def test_a_taken_port_is_an_error_and_stays_with_its_owner() -> None:
    first, second = RpcServer([SERVICE]), RpcServer([SERVICE])
    address = f"127.0.0.1:{await first.start('127.0.0.1:0')}"
    await first.mark_serving()
    with pytest.raises(OSError, match=address):
        await second.start(address)
    async with grpc.aio.insecure_channel(address) as channel:
        assert await health_of(channel, SERVICE) == SERVING, "the first one was disturbed"
    await first.stop()
    await second.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:999999", "127.0.0.1", "127.0.0.1:-1", ""])
async def test_what_is_no_address_is_an_error(address: str) -> None:
    server = RpcServer([SERVICE])
    with pytest.raises(OSError, match="cannot listen"):
        await server.start(address)
    await server.stop()


async def test_unix_sockets_work(tmp_path: Path) -> None:
    async with running(Scripted(nothing), f"unix:{tmp_path}/rpc.sock") as (_, channel):
        stub = pb_grpc.DrafterServiceStub(channel)
        assert (await stub.Forget(pb.ForgetRequest(), timeout=TIMEOUT_S)).num_tokens == 7


async def test_reflection_lists_the_service() -> None:
    async with running(Scripted(nothing)) as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=TIMEOUT_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        reply = await call.read()
        assert SERVICE in [s.name for s in reply.list_services_response.service]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_oversize_messages_are_refused() -> None:
    async with running(Scripted(nothing)) as (_, channel):
        request = pb.ForgetRequest(namespace="x" * (9 * 1024 * 1024))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.DrafterServiceStub(channel).Forget(request, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_stops(number: int) -> None:
    async with running(Scripted(nothing)) as (server, _):
        drained = asyncio.Event()

        async def drain() -> None:
            drained.set()

        run = asyncio.create_task(server.run_until_signalled(drain=drain, grace_s=TIMEOUT_S))
        await asyncio.sleep(0)  # one turn of the loop installs the handlers
        os.kill(os.getpid(), number)
        await asyncio.wait_for(run, TIMEOUT_S)
        assert drained.is_set()


async def test_a_second_signal_stops_at_once() -> None:
    async with running(Scripted(nothing)) as (server, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft()
        await call.write(pb.DraftRequest(step=1))
        await call.read()
        draining = asyncio.Event()

        async def drain() -> None:
            draining.set()
            await asyncio.Event().wait()

        run = asyncio.create_task(server.run_until_signalled(drain=drain, grace_s=3600))
        await asyncio.sleep(0)  # one turn of the loop installs the handlers
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(draining.wait(), TIMEOUT_S)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, TIMEOUT_S)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()


async def test_a_second_signal_cuts_a_long_grace() -> None:
    servicer = Scripted(nothing)
    async with running(servicer) as (server, channel):
        call = pb_grpc.DrafterServiceStub(channel).Draft()
        await call.write(pb.DraftRequest(step=1))
        await call.read()
        run = asyncio.create_task(server.run_until_signalled(grace_s=3600))
        await asyncio.sleep(0)  # one turn of the loop installs the handlers
        os.kill(os.getpid(), signal.SIGTERM)
        while not server.draining:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, TIMEOUT_S)
        await asyncio.wait_for(servicer.released.wait(), TIMEOUT_S)
