"""One model over two processes says what it says in one; a model that cannot be cut is refused."""

import json
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
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from tests.support.models.reference import generate
from tests.support.models.saved_model import save_small_model
from tests.support.models.small_tokenizers import small_tokenizer
from verifier.model.parallel import Group, ParallelError

pytestmark = pytest.mark.slow

TIMEOUT_S = 100.0
SERVING = health_pb2.HealthCheckResponse.SERVING
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
SCHEMA = {
    "type": "object",
    "properties": {"fox": {"enum": ["red", "brown", "blue"]}, "size": {"const": "lazy dog"}},
    "required": ["fox", "size"],
    "additionalProperties": False,
}


@contextmanager
def server(path: Path, *launcher: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A verifier that serves the model in `path`; gives its address once it does."""
    address = f"unix:{path}/socket"
    environment = os.environ | {
        "XDG_CACHE_HOME": str(path),
        "LOOKAHEAD_VERIFIER_MODEL": str(path / "tiny"),
        "LOOKAHEAD_VERIFIER_LISTEN": address,
        "LOOKAHEAD_VERIFIER_THREADS": "1",
        "LOOKAHEAD_VERIFIER_MAX_CONTEXT": "200",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", *launcher, "verifier"], env=environment)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
            health = health_pb2_grpc.HealthStub(channel)
            states = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert next(reply for reply in states if reply.status == SERVING)
        yield address, process
    finally:
        process.kill()
        process.wait()


def requests() -> list[pb.GenerateRequest]:
    """Greedy and sampled, free and constrained; the last ones share a beginning."""
    beginning = "the quick brown fox jumps over the lazy dog, then it sleeps. " * 2
    stopping = pb.Stopping(max_tokens=40, ignore_eos=True)
    form = pb.Constraint(json_schema=json.dumps(SCHEMA))
    return [
        pb.GenerateRequest(text="a stitch in", stopping=stopping),
        pb.GenerateRequest(
            text="user: say", stopping=stopping, sampling=pb.Sampling(temperature=1.0, seed=5)
        ),
        pb.GenerateRequest(text="the fox", constraint=form, stopping=pb.Stopping(max_tokens=60)),
        pb.GenerateRequest(text=beginning, stopping=stopping),
        pb.GenerateRequest(text=beginning + "a stitch", stopping=stopping),
    ]


def answers(address: str) -> list[tuple[list[int], pb.Finished]]:
    """Each request's tokens and end."""
    with grpc.insecure_channel(address) as channel:
        verifier = pb_grpc.VerifierServiceStub(channel)
        found = []
        for request in requests():
            replies = list(verifier.Generate(request, timeout=TIMEOUT_S))
            ids = [i for reply in replies for i in reply.tokens.token_ids]
            found.append((ids, replies[-1].finished))
        return found


@pytest.mark.timeout(300)  # five processes import torch
def test_two_processes_say_what_one_says_and_drain_together(tmp_path: Path) -> None:
    save_small_model(tmp_path / "tiny")
    with server(tmp_path) as (address, _):
        alone = answers(address)
    with server(tmp_path, *TORCHRUN) as (address, process):
        shared = answers(address)
        assert [ids for ids, _ in shared] == [ids for ids, _ in alone]
        assert shared[2][1].speculation.num_accepted_tokens > 0, "no tree was verified"
        assert shared[4][1].usage.num_reused_tokens > 0, "no rows were copied"
        with grpc.insecure_channel(address) as channel:
            running = pb.GenerateRequest(
                text="the", stopping=pb.Stopping(max_tokens=150, ignore_eos=True)
            )
            stream = pb_grpc.VerifierServiceStub(channel).Generate(running)
            assert next(stream).started.model == "tiny"
            process.send_signal(signal.SIGTERM)
            assert list(stream)[-1].finished.usage.num_output_tokens == 150
        process.wait(TIMEOUT_S)
    judge = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    prompt = small_tokenizer("byte_level").encode("a stitch in")
    assert shared[0][0] == generate(judge, prompt, 40, [])


def test_a_model_without_a_plan_is_refused_by_name() -> None:
    with pytest.raises(ParallelError, match="no tensor-parallel plan for the model type mamba"):
        Group(0, 2).check("small", MambaConfig())


@pytest.mark.parametrize(
    ("heads", "kv_heads", "problem"),
    [(6, 6, "num_attention_heads = 6"), (8, 2, "num_key_value_heads = 2")],
)
def test_heads_that_cannot_be_shared_out_are_refused(
    heads: int, kv_heads: int, problem: str
) -> None:
    config = LlamaConfig(num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=48)
    with pytest.raises(ParallelError, match=f"{problem} is not a multiple of 4"):
        Group(0, 4).check("small", config)


def test_a_model_that_fits_is_not_refused() -> None:
    Group(0, 4).check("small", LlamaConfig(num_attention_heads=8, num_key_value_heads=4))


def test_torchrun_says_who_a_process_is_and_without_it_there_is_one() -> None:
    assert Group.of({"RANK": "1", "WORLD_SIZE": "2"}) == Group(1, 2)
    assert Group.of({}) == Group(0, 1)
