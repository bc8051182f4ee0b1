"""Every way a call can end: its status, its details, its count and its line in the log."""

import asyncio
import logging

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc import call_limits
from rpc.errors import (
    RETRY_AFTER_S,
    FieldViolation,
    InvalidRequest,
    ResourceExhausted,
    RetryLater,
    Unavailable,
)
from tests.support.servers.scripted_service import (
    NOT_SERVING,
    SERVICE,
    TIMEOUT_S,
    Scripted,
    failure_of,
    health_of,
    nothing,
    raising,
    running,
)
from tests.support.waiting import eventually


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
            await eventually(lambda: bool(server.calls))
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


async def test_a_request_that_is_no_message_is_refused_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut, no_text = b"\xff\xff\xff", b"\x0a\x02\xc3\x28"
    async with running(Scripted(nothing)) as (server, channel):
        for method, data in (
            (f"{SERVICE}/Forget", cut),
            (f"{SERVICE}/Forget", no_text),
            ("grpc.health.v1.Health/Check", cut),
        ):
            unary = channel.unary_unary(f"/{method}", request_serializer=bytes)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(data, timeout=TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream(f"/{SERVICE}/Draft", request_serializer=bytes)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream(iter([cut]), timeout=TIMEOUT_S):
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert server.calls[("Forget", "INVALID_ARGUMENT")] == 2
    assert server.calls[("Draft", "INVALID_ARGUMENT")] == 1
    assert "Traceback" not in caplog.text


async def test_health_watches_take_no_calls_from_others() -> None:
    async with running(Scripted(nothing), max_concurrent_rpcs=2) as (_, channel):
        watching = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            for _ in range(40)
        ]
        for watch in watching:
            assert (await watch.read()).status == NOT_SERVING
        await pb_grpc.DrafterServiceStub(channel).Forget(pb.ForgetRequest(), timeout=TIMEOUT_S)
        for watch in watching:
            watch.cancel()


async def test_health_is_told_when_all_calls_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MAX_WATCHES", 1)

    async def hang() -> None:
        arrived.append(True)
        await asyncio.Event().wait()

    arrived: list[bool] = []
    async with running(Scripted(hang), max_concurrent_rpcs=2) as (_, channel):
        stub = pb_grpc.DrafterServiceStub(channel)
        hanging = [stub.Forget(pb.ForgetRequest()) for _ in range(2)]
        try:
            # Sent once somebody waits for them.
            waiting = [asyncio.ensure_future(call.code()) for call in hanging]
            await eventually(lambda: len(arrived) == 2)
            raised, status = await failure_of(channel)
            assert raised.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
            assert await health_of(channel, SERVICE) == NOT_SERVING
            health = health_pb2_grpc.HealthStub(channel)
            first = health.Watch(health_pb2.HealthCheckRequest())
            assert (await first.read()).status == NOT_SERVING
            second = health.Watch(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            first.cancel()
        finally:
            for call in hanging:
                call.cancel()
            await asyncio.gather(*waiting)
