"""A verifier as a process of its own: it loads, says when it is ready, drains, and says why not."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.contract import StartupPart
from rpc.server import ServerFailed
from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.servers.running_verifier import running, small_model
from tests.support.waiting import eventually
from verifier import __main__ as verifier_main
from verifier import loading
from verifier.config import VerifierConfig
from verifier.engine.engine import Engine
from verifier.model.batch import Segment
from verifier.model.ladder import choose_way
from verifier.model.model import TargetModel
from verifier.model.parallel import Group
from verifier.server import STUCK, serve, watch

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def verifier_process(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m verifier`, killed at the end if need be."""
    environment = os.environ | {"XDG_CACHE_HOME": str(home), "LOOKAHEAD_VERIFIER_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "verifier", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_process_serves_and_drains_on_sigterm(tmp_path: Path) -> None:
    model, address = saved_model(tmp_path / "tiny"), f"unix:{tmp_path}/socket"
    arguments = ["--model", model, "--listen", address, "--max-context", "200"]
    with verifier_process(*arguments, home=tmp_path) as process:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
            # The health service answers while the model loads.
            health = health_pb2_grpc.HealthStub(channel)
            states = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert next(reply for reply in states if reply.status == SERVING)
            parts = [health_pb2.HealthCheckRequest(service=part) for part in StartupPart]
            assert [health.Check(part).status for part in parts] == [SERVING] * 3
            verifier = pb_grpc.VerifierServiceStub(channel)
            assert verifier.GetModel(pb.GetModelRequest()).model == "tiny"
            stopping = pb.Stopping(max_tokens=150, ignore_eos=True)
            stream = verifier.Generate(pb.GenerateRequest(text="the", stopping=stopping))
            assert next(stream).started.model == "tiny"
            process.send_signal(signal.SIGTERM)
            finished = list(stream)[-1].finished
            assert finished.usage.num_output_tokens == 150
            assert finished.reason == pb.Finished.FINISH_REASON_LENGTH
        assert process.wait(TIMEOUT_S) == 0


def saved_model(folder: Path) -> str:
    """A small model with its tokenizer."""
    small_model()._model.save_pretrained(folder)
    small_tokenizer("byte_level")._backend.save_pretrained(folder)
    return str(folder)


def load(model: str, *, bitwise: bool, required: bool, monkeypatch: pytest.MonkeyPatch) -> Engine:
    def found(model: TargetModel, *arguments: object, **options: object) -> None:
        choose_way(model, *arguments, **options)  # type: ignore[arg-type]
        model.bitwise, model.not_bitwise_reason = bitwise, "its rows round otherwise"

    monkeypatch.setattr(loading, "choose_way", found)
    config = VerifierConfig(model=model, max_context=200, require_bitwise=required)
    return asyncio.run(loading.load_engine(config, Group(), lambda part: None))[0]


def test_a_model_that_must_be_bitwise_and_is_not_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved_model(tmp_path / "tiny")
    for bitwise, required in ((False, False), (True, True)):
        engine = load(model, bitwise=bitwise, required=required, monkeypatch=monkeypatch)
        assert engine.model.bitwise is bitwise
    with pytest.raises(loading.NotBitwise, match="its rows round otherwise"):
        load(model, bitwise=False, required=True, monkeypatch=monkeypatch)


def test_why_nothing_is_served_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*arguments: object) -> None:
        raise loading.NotBitwise("tiny is not bitwise")

    monkeypatch.setattr(verifier_main, "serve", refuse)
    monkeypatch.setattr("sys.argv", ["verifier", "--model", "tiny"])
    monkeypatch.setattr(verifier_main, "configure_logging", lambda *arguments: None)
    with pytest.raises(SystemExit) as ended:
        verifier_main.main()
    assert ended.value.code == 1
    assert "cannot_serve error=tiny is not bitwise" in caplog.text


async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = VerifierConfig(model="/nowhere/at/all", listen=f"unix:{tmp_path}/socket")
    with pytest.raises(OSError, match="/nowhere/at/all"):
        await serve(config)


async def test_a_lost_device_turns_health_and_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, address = saved_model(tmp_path / "tiny"), f"unix:{tmp_path}/socket"
    config = VerifierConfig(model=model, listen=address, max_context=200, watchdog_s=60.0)
    serving = asyncio.create_task(serve(config))
    async with grpc.aio.insecure_channel(address) as channel:
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await anext(state async for state in states if state.status == SERVING)

        def broken(model: TargetModel, segments: object) -> object:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

        monkeypatch.setattr(TargetModel, "forward", broken)
        call = pb_grpc.VerifierServiceStub(channel).Generate(pb.GenerateRequest(text="the"))
        with pytest.raises(grpc.aio.AioRpcError, match="device-side assert"):
            async for _ in call:
                pass
        assert (await anext(aiter(states))).status != SERVING
    with pytest.raises(ServerFailed, match="device-side assert"):
        await serving


async def test_a_pass_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    forward = TargetModel.forward

    def stuck(model: TargetModel, segments: list[Segment]) -> object:
        begun.set()
        goes_on.wait(TIMEOUT_S)
        return forward(model, segments)

    async with running() as verifier:
        ended: list[int] = []
        monkeypatch.setattr(TargetModel, "forward", stuck)
        watching = asyncio.create_task(watch(verifier.engine, verifier.server, 0.2, ended.append))
        answer = asyncio.create_task(verifier.generate(text="the"))
        await asyncio.to_thread(begun.wait, TIMEOUT_S)
        await eventually(lambda: bool(ended))
        goes_on.set()
        watching.cancel()
        await asyncio.gather(answer, return_exceptions=True)
    assert ended[0] == STUCK
