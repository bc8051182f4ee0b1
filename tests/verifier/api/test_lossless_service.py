"""bfloat16, through the service: drafts change no token and no bit, sampled or not."""

import random
from typing import Any

import grpc
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.serving.forced import AlwaysOn
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from tests.support.models.engine_runs import FREE_NODES, target_model
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.servers.running_verifier import ids_of, serving
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.model.model import TargetModel
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

TOKENIZER = small_tokenizer("byte_level")
CONFIG = VerifierConfig(model="small", max_sequences=2, max_waiting=32, max_context=250)
NUM_TOKENS = 60
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.7, "seed": 7},
    "filters": {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "seed": 8},
    "penalties": {
        "temperature": 0.9,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "seed": 9,
    },
}
TEXTS = ["the quick brown", "a stitch in time", "user: say", "an apple a day keeps", "日本語 naïve"]


@pytest.fixture(scope="module")
def model() -> TargetModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=TOKENIZER.size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    hf = LlamaForCausalLM(config).eval().to(torch.bfloat16)
    return target_model(hf, max_sequences=2, max_context=250)


def knowing(answers: dict[tuple[int, ...], list[int]]) -> FakeDrafts:
    """The answer to each prompt with decoys, cut where a decoy misleads, or noise."""
    rng = random.Random(4)

    def propose(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        prompt = next(p for p in answers if tuple(tokens[: len(p)]) == p)
        rest = answers[prompt][len(tokens) - len(prompt) :][:9]
        if rng.random() < 0.2:
            return random_tree(rng, 20, range(TOKENIZER.size))
        return path_tree(rest, decoys=[rng.randrange(TOKENIZER.size) for _ in rest])

    return FakeDrafts(propose)


async def ask(engine: Engine, sampling: dict[str, Any], mode: str) -> list[pb.GenerateResponse]:
    """All events of all texts' requests, one after the other."""
    async with (
        serving(engine, TOKENIZER, CONFIG) as (_, _, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = pb_grpc.VerifierServiceStub(channel)
        requests = (
            pb.GenerateRequest(
                text=text,
                sampling=pb.Sampling(**sampling),
                stopping=pb.Stopping(max_tokens=NUM_TOKENS, ignore_eos=True),
                output=pb.Output(logprobs=True, top_logprobs=3),
                speculation=pb.Speculation(mode=mode),  # type: ignore[arg-type]
            )
            for text in TEXTS
        )
        return [[event async for event in stub.Generate(r, timeout=60)] for r in requests]  # type: ignore[misc]


def logprobs_of(events: list[pb.GenerateResponse]) -> list[pb.TokenLogprobs]:
    return [entry for event in events for entry in event.tokens.logprobs]


@pytest.mark.parametrize("name", SAMPLINGS)
async def test_drafted_text_is_plain_text_to_the_bit(model: TargetModel, name: str) -> None:
    sampling = SAMPLINGS[name]
    engine = Engine(model, TOKENIZER, None, FREE_NODES, CONFIG, Counters())
    plain = await ask(engine, sampling, "MODE_OFF")
    prompts = [tuple(TOKENIZER.encode(text)) for text in TEXTS]
    drafts: Any = knowing(dict(zip(prompts, map(ids_of, plain), strict=True)))
    engine = Engine(model, TOKENIZER, drafts, FREE_NODES, CONFIG, Counters())
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    drafted = await ask(engine, sampling, "MODE_TREE")
    assert [ids_of(events) for events in drafted] == [ids_of(events) for events in plain]
    assert list(map(logprobs_of, drafted)) == list(map(logprobs_of, plain))
    accepted = sum(e[-1].finished.speculation.num_accepted_tokens for e in drafted)
    assert accepted > len(TEXTS) * NUM_TOKENS / 3
