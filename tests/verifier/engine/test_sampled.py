"""Same seed, same text: whatever is drafted, and whoever else is in the batch."""

import random

import pytest

from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE
from verifier.model.model import TargetModel
from verifier.request import Mode
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

PROMPTS = [[5, 9, 33, 4], [7] * 9, [3]]
PARAMS = {
    "plain": SamplingParams(temperature=1.0, seed=11),
    "filters": SamplingParams(temperature=0.8, top_p=0.9, top_k=20, min_p=0.02, seed=3),
    "penalties": SamplingParams(
        temperature=0.7,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        presence_penalty=-0.4,
        seed=5,
    ),
    "bias": SamplingParams(temperature=1.2, logit_bias=((4, 3.0), (9, -100.0)), seed=2**63),
    "greedy with penalties": SamplingParams(frequency_penalty=1.0, repetition_penalty=1.5),
}


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=4, max_context=96)


def texts(
    model: TargetModel, drafts: FakeDrafts | None, mode: Mode, params: SamplingParams, alone: bool
) -> list[list[int]]:
    requests = [make_request(p, 40, mode=mode, sampling=params) for p in PROMPTS]
    if alone:
        return [ids_of(run_all(make_engine(model, drafts), [r])[0][0]) for r in requests]
    return [ids_of(runs) for runs, _ in run_all(make_engine(model, drafts), requests)]


@pytest.mark.parametrize("name", PARAMS)
def test_same_seed_gives_the_same_text_with_any_drafts(model: TargetModel, name: str) -> None:
    params = PARAMS[name]
    plain = texts(model, None, Mode.OFF, params, alone=True)
    rng = random.Random(5)

    def knowing(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        """The right answer with decoys, or noise."""
        prompt = PROMPTS[sequence_id - 1]
        rest = plain[sequence_id - 1][len(tokens) - len(prompt) :][:10]
        if rng.random() < 0.3:
            return random_tree(rng, 30, range(VOCABULARY_SIZE))
        return path_tree(rest, decoys=[rng.randrange(VOCABULARY_SIZE) for _ in rest])

    for mode in (Mode.OFF, Mode.CHAIN, Mode.TREE, Mode.AUTO):
        assert texts(model, FakeDrafts(knowing), mode, params, alone=False) == plain, mode


def test_requests_that_run_together_say_what_each_seed_says_alone(model: TargetModel) -> None:
    """As n samples of one prompt do: seeds one after the other, prompts equal."""
    prompt = [random.Random(4).randrange(3, 60) for _ in range(40)]
    requests = [
        make_request(
            prompt, 20, mode=Mode.OFF, sampling=SamplingParams(temperature=1.0, seed=7 + i)
        )
        for i in range(6)
    ]
    alone = [ids_of(run_all(make_engine(model, None), [request])[0][0]) for request in requests]
    together = [ids_of(runs) for runs, _ in run_all(make_engine(model, None), requests)]
    assert together == alone
    assert len(set(map(tuple, alone))) == len(alone)


def test_different_seeds_give_different_texts(model: TargetModel) -> None:
    some = [
        texts(model, None, Mode.OFF, SamplingParams(temperature=1.0, seed=seed), alone=False)[0]
        for seed in range(3)
    ]
    assert len({tuple(ids) for ids in some}) == 3
