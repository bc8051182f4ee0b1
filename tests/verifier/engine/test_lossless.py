"""Greedy text with any drafts equals transformers' generate, for every family of models."""

import random
from functools import partial

import pytest

from tests.support.models import models_page
from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE, Family, generate
from verifier.model.model import VerificationMode
from verifier.request import Mode
from verifier.speculation.tree import EMPTY_TREE, DraftTree, prefix

pytestmark = pytest.mark.slow

NUM_TOKENS = 24


def prompts(seed: int, count: int) -> list[list[int]]:
    rng = random.Random(seed)
    lengths = [1, 3, 11, 20, 7][:count]
    return [[rng.randrange(3, VOCABULARY_SIZE) for _ in range(length)] for length in lengths]


class Strategies:
    """Drafts that know the right answer and use, spoil or ignore it."""

    def __init__(self, answers: dict[int, list[int]], prompt_lens: dict[int, int], eos: int):
        self.answers, self.prompt_lens, self.eos = answers, prompt_lens, eos
        self.rng = random.Random(7)

    def __call__(self, sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        done = len(tokens) - self.prompt_lens[sequence_id]
        rest = self.answers[sequence_id][done : done + 12]
        wrong = [(token + 1) % VOCABULARY_SIZE for token in rest]
        trees = [
            path_tree(rest),
            path_tree(rest, decoys=wrong),
            path_tree(wrong),
            path_tree([*rest[:3], self.eos, *rest[3:]], decoys=[self.eos] * len(rest)),
            path_tree([self.eos] * 5),
            random_tree(self.rng, self.rng.choice([1, 4, 16, 63]), range(VOCABULARY_SIZE)),
            EMPTY_TREE,
        ]
        return prefix(self.rng.choice(trees), max_nodes)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_greedy_text_with_any_drafts_equals_generate(family: Family) -> None:
    hf = family.build()
    some = prompts(1, 5)
    greedy = partial(generate, hf, num_tokens=NUM_TOKENS, may_cache=family.may_cache)
    free = [greedy(prompt, eos_token_ids=[]) for prompt in some]
    eos = free[0][NUM_TOKENS // 2]  # ends some answers in the middle
    answers = [greedy(prompt, eos_token_ids=[eos]) for prompt in some]
    model = target_model(hf, max_sequences=3, max_context=64)
    drafts = FakeDrafts(
        Strategies(
            {i + 1: answer for i, answer in enumerate(free)},
            {i + 1: len(prompt) for i, prompt in enumerate(some)},
            eos,
        )
    )
    # Five requests on three slots: they join and leave at different steps.
    engine = make_engine(model, drafts, max_sequences=3, prefill_rows=4)
    requests = [
        make_request(
            prompt,
            NUM_TOKENS,
            mode=[Mode.TREE, Mode.AUTO, Mode.CHAIN, Mode.TREE, Mode.OFF][i],
            eos_token_ids=frozenset([eos]),
        )
        for i, prompt in enumerate(some)
    ]
    results = run_all(engine, requests)
    assert [ids_of(runs) for runs, _ in results] == answers
    listed = models_page.row(family, model)
    assert listed in models_page.PATH.read_text().splitlines(), models_page.OUT_OF_DATE
    accepted = sum(completion.num_accepted_tokens for _, completion in results)
    assert (accepted > 0) == (model.form is not VerificationMode.PLAIN)


def test_the_page_of_models_lists_every_family_and_no_other() -> None:
    listed = [line.split("`")[1] for line in models_page.listed()]
    assert listed == [family.model_type for family in FAMILIES], models_page.OUT_OF_DATE
