"""The drafter as a process: it serves, says what it lacks, and ends when told to."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drafter.api.service import NAME
from drafter.server import SHARED_MEMORY
from protos.drafter_pb2_grpc import DrafterServiceStub
from tests.support.servers.running_drafter import (
    TIMEOUT_S,
    Engine,
    make_open,
)

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_the_process_serves_says_that_memory_is_local_and_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    address = f"unix:{tmp_path}/drafter.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drafter", "--listen", address, stderr=asyncio.subprocess.PIPE
    )
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(
            health_pb2.HealthCheckRequest(service=NAME), timeout=60, wait_for_ready=True
        )
        async for reply in watch:
            if reply.status == SERVING:
                break
        watch.cancel()
        memory = await health.Check(health_pb2.HealthCheckRequest(service=SHARED_MEMORY))
        assert memory.status != SERVING
        engine = Engine(DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S))
        assert len((await engine.send(open=[make_open()])).drafts) == 1
        os.kill(process.pid, signal.SIGTERM)
        _, logs = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0
    assert b"memory dies with the process" in logs
    assert b"stream_ended" in logs and b"sequences=1" in logs


async def test_the_process_refuses_settings_that_cannot_work() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drafter", "--redis", "http://here", stderr=asyncio.subprocess.PIPE
    )
    _, logs = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"redis_url: scheme 'http'" in logs and b"Traceback" not in logs
