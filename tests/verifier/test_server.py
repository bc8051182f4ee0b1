"""A verifier as a process of its own: it loads, says when it is ready, drains, and says why not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.contract import StartupPart
from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.servers.running_verifier import small_model
from verifier.config import VerifierConfig
from verifier.server import serve

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
    model = tmp_path / "tiny"
    small_model()._model.save_pretrained(model)
    small_tokenizer("byte_level")._backend.save_pretrained(model)
    address = f"unix:{tmp_path}/socket"
    arguments = ["--model", str(model), "--listen", address, "--max-context", "200"]
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


async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = VerifierConfig(model="/nowhere/at/all", listen=f"unix:{tmp_path}/socket")
    with pytest.raises(OSError, match="/nowhere/at/all"):
        await serve(config)
