"""A server comes up, says how it is, drains and ends; and what it refuses."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc import server as server_module
from rpc.server import RpcServer
from tests.support.servers.scripted_service import (
    NOT_SERVING,
    SERVICE,
    SERVING,
    TIMEOUT_S,
    Scripted,
    health_of,
    nothing,
    running,
)
from tests.support.waiting import eventually


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
        await eventually(lambda: server.draining)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, TIMEOUT_S)
        await asyncio.wait_for(servicer.released.wait(), TIMEOUT_S)


async def test_pings_of_clients_are_welcome_in_a_quiet_stream_and_between_calls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ten minutes in ten seconds; most clients ping every 30 s, the busiest every 10."""
    hurry = 60
    options = server_module._options
    monkeypatch.setattr(
        server_module, "_options", lambda streams: _hurried(options(streams), hurry)
    )

    async def hang() -> None:
        await asyncio.Event().wait()

    address = f"unix:{tmp_path}/s"
    for ping_s in (30, 10):
        pings = [
            *_hurried([("grpc.keepalive_time_ms", ping_s * 1000)], hurry),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        async with (
            running(Scripted(hang), address),
            grpc.aio.insecure_channel(address, pings) as channel,
        ):
            assert await health_of(channel, SERVICE) == NOT_SERVING
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pb_grpc.DrafterServiceStub(channel).Forget(pb.ForgetRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _hurried(options: list[tuple[str, int]], times: int) -> list[tuple[str, int]]:
    """Options whose pings come more often."""
    names = ("grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms")
    return [(name, value // times if name in names else value) for name, value in options]
