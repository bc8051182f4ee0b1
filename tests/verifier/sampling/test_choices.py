"""Choices for a whole step are those that each sequence makes by itself, token by token."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.support.models.fake_drafts import random_tree
from verifier.engine.step import _walk
from verifier.sampling import blocks, choices
from verifier.sampling.choices import Choices, Chooser
from verifier.sampling.params import SamplingError, SamplingParams
from verifier.sampling.ranking import logprobs, rank
from verifier.sampling.sampler import Sampler
from verifier.speculation.tree import Accepted, DraftTree, accept

VOCABULARY = 700
PARAMS = [
    {},
    {"temperature": 0.9},
    {"temperature": 1.2, "top_p": 0.8},
    {"temperature": 0.7, "top_k": 9, "min_p": 0.02},
    {"temperature": 1.0, "top_k": 600, "top_p": 0.99},
    {"temperature": 0.8, "frequency_penalty": 0.7, "repetition_penalty": 1.2},
    {"repetition_penalty": 1.5},
    {"logit_bias": ((3, 4.0), (5, -100.0))},
]
MIN_TOKENS, ENDING = 5, frozenset({1, 2, 3, 4})


def samplers(seed: int) -> list[Sampler]:
    """One of each kind, in any order, at any place of its output."""
    rng = random.Random(seed)
    kinds = rng.sample(PARAMS, len(PARAMS))
    made = [
        Sampler(
            SamplingParams(seed=seed + i, **kind),  # type: ignore[arg-type]
            (1, 2, 3),
            ending_ids=ENDING,
            min_tokens=MIN_TOKENS * (i % 3 == 0),
        )
        for i, kind in enumerate(kinds)
    ]
    for sampler in made:
        for _ in range(rng.randrange(8)):
            sampler.push(rng.randrange(VOCABULARY))
    return made


def peaked(rows: int, seed: int) -> Tensor:
    """Logits of few likely tokens, which random trees often hold."""
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits[:, :6] += 5.0
    return logits


def together(
    made: Sequence[Sampler], trees: Sequence[DraftTree], logits: Tensor
) -> list[Chooser | Accepted]:
    """What each accepts, or the chooser that could not choose."""
    starts = [0]
    for tree in trees:
        starts.append(starts[-1] + 1 + len(tree))
    choosers = [
        Chooser(sampler, start, tree.parents)
        for sampler, start, tree in zip(made, starts, trees, strict=False)
    ]
    found = Choices(choosers, logits, rank(logits, 8))
    accepted = [_walk(tree, c, found) for tree, c in zip(trees, choosers, strict=True)]
    return [one or c for one, c in zip(accepted, choosers, strict=True)]


def alone(sampler: Sampler, tree: DraftTree, logits: Tensor) -> Accepted:
    """The judge: one choice after the other, without a look at any other row."""

    def choose(row: int) -> int:
        token_id = sampler.choose(logits, row)
        sampler.push(token_id)
        return token_id

    return accept(tree, choose)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("block", [1, 4, 32])
def test_every_sequence_says_in_company_what_it_says_alone(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the draws of a level together, and with those of all rows in advance."""
    monkeypatch.setattr(blocks, "CPU_BLOCK", block)
    monkeypatch.setattr(choices, "draws_in_advance", lambda device: block > 1)
    rng = random.Random(seed)
    company, judges = samplers(seed), samplers(seed)
    emitted = 0
    for step in range(6):
        trees = [random_tree(rng, rng.randrange(20), range(6)) for _ in company]
        sizes = [1 + len(tree) for tree in trees]
        logits = peaked(sum(sizes), 100 * seed + step)
        found = together(company, trees, logits)
        rows = logits.split(sizes)
        expected = [alone(*each) for each in zip(judges, trees, rows, strict=True)]
        assert found == expected
        assert [s.position for s in company] == [s.position for s in judges]
        emitted += sum(len(one.path) for one in expected)
    assert emitted > 8, "hardly anything was drafted that was right"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("in_advance", [False, True])
def test_a_row_without_numbers_ends_its_own_sequence_and_no_other(
    bad: float, in_advance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "draws_in_advance", lambda device: in_advance)
    params = [SamplingParams(), SamplingParams(temperature=1.0), SamplingParams(top_k=2)]
    params.append(SamplingParams(temperature=1.0, top_p=0.5))
    for broken in range(len(params)):
        made, judges = ([Sampler(p, ()) for p in params] for _ in range(2))
        logits = peaked(len(params), 3)
        logits[broken, 9] = bad
        trees = [DraftTree((), (), ())] * len(params)
        for i, (found, judge) in enumerate(zip(together(made, trees, logits), judges, strict=True)):
            if i == broken:
                assert isinstance(found, Chooser)
                assert isinstance(found.error, SamplingError)
            else:
                assert found == Accepted([judge.choose(logits, i)], [])


def test_a_row_off_the_path_may_hold_anything() -> None:
    logits = torch.zeros(3, VOCABULARY)
    logits[0, 7] = logits[2, 8] = 1.0
    logits[1] = math.nan
    tree = DraftTree((5, 7), (-1, -1), (0.5, 0.4))
    assert together([Sampler(SamplingParams(), ())], [tree], logits) == [Accepted([7, 8], [1])]


@pytest.mark.parametrize("block", [1, 8])
def test_log_probabilities_do_not_depend_on_what_they_are_asked_with(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CPU_BLOCK", block)
    logits = torch.randn(40, 50_000, generator=torch.Generator().manual_seed(1))
    rows = random.Random(2).sample(range(40), 30)
    found = logprobs(logits, rows, rows, 3)
    assert found == [logprobs(logits, [row], [row], 3)[0] for row in rows]
