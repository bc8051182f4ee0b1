"""Rounding: drafts, company and reused rows change no token and no bit of a log probability."""

import random
from dataclasses import replace
from typing import TypeAlias

import pytest
import torch

from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import VOCABULARY_SIZE, family
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.model.model import TargetModel
from verifier.request import Mode, Request
from verifier.sampling.params import SamplingParams
from verifier.sampling.ranking import TokenLogprobs
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

PROMPTS = [[5, 9, 33, 4, 17], [3] * 20, [11, 60], [(5 * i) % 61 + 3 for i in range(30)]]
NUM_TOKENS = 60
MODELS = [
    ("llama", torch.float32),
    ("llama", torch.bfloat16),
    ("llama", torch.float16),
    ("gemma3_text", torch.bfloat16),
    ("qwen2", torch.bfloat16),
    ("gpt2", torch.bfloat16),
    ("mixtral", torch.float32),
    ("mixtral", torch.bfloat16),
]
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=0.9, top_p=0.95, seed=3)]

Said: TypeAlias = tuple[list[int], list[TokenLogprobs]]


@pytest.fixture(scope="module", params=MODELS, ids=lambda each: f"{each[0]}-{each[1]}")
def model(request: pytest.FixtureRequest) -> TargetModel:
    name, dtype = request.param
    return target_model(family(name).build().to(dtype), max_sequences=4, max_context=128)


def requests(mode: Mode, sampling: SamplingParams) -> list[Request]:
    made = [make_request(p, NUM_TOKENS, mode=mode, sampling=sampling) for p in PROMPTS]
    return [replace(request, logprobs=True, num_top_logprobs=3) for request in made]


def said_by(outcome: tuple[list[TokenRun], Completion]) -> Said:
    runs, _ = outcome
    return ids_of(runs), [entry for run in runs for entry in run.logprobs]


def together(engine: Engine, some: list[Request]) -> list[Said]:
    return [said_by(outcome) for outcome in run_all(engine, some)]


def alone(model: TargetModel, some: list[Request]) -> list[Said]:
    return [together(make_engine(model, None), [request])[0] for request in some]


def knowing(answers: list[list[int]]) -> FakeDrafts:
    """Drafts that hold the plain answer, gaps and noise."""
    rng = random.Random(2)

    def drafter(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        rest = answers[sequence_id - 1][len(tokens) - len(PROMPTS[sequence_id - 1]) :][:8]
        if rng.random() < 0.3:
            return random_tree(rng, 20, range(VOCABULARY_SIZE))
        # A decoy comes first: where only chains are verified it would hide the answer.
        decoys = [*rest[:3], *(rng.randrange(VOCABULARY_SIZE) for _ in rest[3:])]
        return path_tree(rest, decoys=decoys)

    return FakeDrafts(drafter)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_drafts_change_no_bit(model: TargetModel, sampling: SamplingParams) -> None:
    plain = alone(model, requests(Mode.OFF, sampling))
    drafts = knowing([ids for ids, _ in plain])
    assert together(make_engine(model, drafts), requests(Mode.TREE, sampling)) == plain


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_company_and_chunks_of_the_prompt_change_no_bit(
    model: TargetModel, sampling: SamplingParams
) -> None:
    some = requests(Mode.OFF, sampling)
    plain = alone(model, some)
    assert together(make_engine(model, None), some) == plain
    assert together(make_engine(model, None, prefill_rows=7), some) == plain


async def test_rows_that_drafts_wrote_change_no_bit(model: TargetModel) -> None:
    """A conversation: the second prompt is the first one and half of its answer, drafted."""
    [first, *_] = requests(Mode.TREE, SAMPLINGS[0])
    rng, half = random.Random(2), NUM_TOKENS // 2
    engine = make_engine(model, None)
    engine.start()
    [(ids, logprobs)] = [said_by(await collect(engine, requests(Mode.OFF, SAMPLINGS[0])[0]))]
    await engine.stop()

    def drafter(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        rest = ids[len(tokens) - len(PROMPTS[0]) :][:8]
        return path_tree(rest, decoys=[rng.randrange(VOCABULARY_SIZE) for _ in rest])

    engine = make_engine(model, FakeDrafts(drafter))
    engine.start()
    assert said_by(await collect(engine, first)) == (ids, logprobs)
    second = replace(first, prompt_token_ids=(*first.prompt_token_ids, *ids[:half]))
    outcome = await collect(engine, second)
    await engine.stop()
    assert outcome[1].num_reused_tokens == len(second.prompt_token_ids) - 1
    found_ids, found_logprobs = said_by(outcome)
    assert found_ids[:half] == ids[half:]
    assert found_logprobs[:half] == logprobs[half:]
