"""Sampled outputs follow the target's exact distribution, whatever is drafted.

Vocabulary of 5, outputs of 3 tokens: all 125 outcomes are enumerated. The model is a table. For
each context the sampler is asked where, in its random number, its choice changes; its intervals
must be the exact probabilities. Then 200,000 seeds are walked through the acceptance rule with
the sampler's own random numbers and compared by a G-test, which two wrong rules must fail.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import power_divergence

from tests.support.models.fake_drafts import random_tree
from verifier.sampling.draws import uniforms
from verifier.sampling.params import SamplingParams
from verifier.sampling.sampler import Sampler
from verifier.speculation.tree import Accepted, DraftTree, accept, child_index

pytestmark = pytest.mark.slow

VOCABULARY, LENGTH, NUM_SAMPLES = 5, 3, 200_000
PROMPT = (1, 3)
OUTCOMES = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
CONTEXTS = [c for n in range(LENGTH) for c in itertools.product(range(VOCABULARY), repeat=n)]
CONFIGURATIONS = {
    "temperature": SamplingParams(temperature=0.8),
    "filters": SamplingParams(temperature=1.3, top_k=4, top_p=0.93, min_p=0.04),
    "penalties": SamplingParams(
        temperature=1.1,
        top_p=0.97,
        repetition_penalty=1.3,
        frequency_penalty=0.4,
        presence_penalty=-0.3,
        logit_bias=((0, 0.7), (2, -0.5)),
    ),
}
# Bonferroni: below this a configuration fails, once in a million runs of a right one.
ALPHA = 1e-6 / len(CONFIGURATIONS)

Context = tuple[int, ...]
Rule = Callable[[DraftTree, Callable[[int], int]], Accepted]


@cache
def logits_after(context: Context) -> NDArray[np.float64]:
    rng = np.random.default_rng([7, *context])
    return rng.normal(0.0, 1.2, VOCABULARY).astype(np.float32).astype(np.float64)


def naive_probabilities(context: Context, p: SamplingParams) -> NDArray[np.float64]:
    """The processors, one after the other, as their papers and Hugging Face say."""
    scores = logits_after(context).copy()
    for token_id, bias in p.logit_bias:
        scores[token_id] += bias
    for token_id in {*PROMPT, *context}:
        penalty = p.repetition_penalty
        scores[token_id] *= penalty if scores[token_id] < 0 else 1 / penalty
    for token_id in set(context):
        scores[token_id] -= p.frequency_penalty * context.count(token_id) + p.presence_penalty
    scores /= p.temperature
    order = np.argsort(-scores)
    kept = np.ones(VOCABULARY, bool)
    if p.top_k:
        kept[order[p.top_k :]] = False
    weights = np.where(kept, np.exp(scores), 0.0)
    before = np.cumsum(weights[order]) / weights.sum() - weights[order] / weights.sum()
    weights[order[before >= p.top_p]] = 0.0
    weights[weights < p.min_p * weights.max()] = 0.0
    return np.asarray(weights / weights.sum())


def sampler_borders(
    context: Context, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> NDArray[np.float64]:
    """borders[t]: the smallest random number for which the sampler chooses a token above t."""
    sampler = Sampler(params, PROMPT)
    for token_id in context:
        sampler.push(token_id)
    logits = torch.tensor(logits_after(context), dtype=torch.float32)

    def choice(u: float) -> int:
        monkeypatch.setattr(Sampler, "uniform", lambda self, position: u)
        return sampler.choose(logits[None])

    borders = np.empty(VOCABULARY)
    for token_id in range(VOCABULARY):
        low, high = 0.0, 1.0
        for _ in range(36):
            middle = (low + high) / 2
            low, high = (middle, high) if choice(middle) <= token_id else (low, middle)
        borders[token_id] = high
    monkeypatch.undo()
    return borders


@pytest.fixture(scope="module")
def draws() -> NDArray[np.float64]:
    """The sampler's random numbers, [seeds, positions]."""
    return np.stack([uniforms(seed, 0, LENGTH) for seed in range(NUM_SAMPLES)])


@pytest.fixture(scope="module")
def trees() -> list[tuple[DraftTree, list[Context]]]:
    """Drafts, from none to bushy, and the tokens that lead to each of their rows."""
    rng = random.Random(11)
    drafted = [random_tree(rng, rng.randrange(13), range(VOCABULARY)) for _ in range(64)]
    return [(tree, row_paths(tree)) for tree in drafted]


def row_paths(tree: DraftTree) -> list[Context]:
    paths: list[Context] = [()]
    for token_id, parent in zip(tree.token_ids, tree.parents, strict=True):
        paths.append((*paths[parent + 1], token_id))
    return paths


def sample(
    rule: Rule,
    borders: dict[Context, list[float]],
    draws: NDArray[np.float64],
    trees: list[tuple[DraftTree, list[Context]]],
) -> NDArray[np.int64]:
    """How often each outcome came out."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for seed, us in enumerate(draws.tolist()):
        output: Context = ()
        while len(output) < LENGTH:
            tree, paths = trees[(seed * 31 + len(output) * 7) % len(trees)]

            def choose(row: int, output: Context = output, paths: list[Context] = paths) -> int:
                # The table answers for the tokens that lead to this very row.
                context = output + paths[row]
                if len(context) >= LENGTH:
                    return 0  # past the end: cut below
                u, above = us[len(context)], borders[context]  # noqa: B023
                return sum(u >= cutoff for cutoff in above)

            output = (*output, *rule(tree, choose).token_ids)[:LENGTH]
        counts[output] += 1
    return np.array(list(counts.values()))


def g_test(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """The probability of counts as far from the expected ones as these."""
    possible = expected > 0
    assert not counts[~possible].any(), "an impossible outcome came out"
    scaled = expected[possible] / expected[possible].sum() * counts.sum()
    return float(power_divergence(counts[possible], scaled, lambda_="log-likelihood").pvalue)


def exact_outcomes(params: SamplingParams) -> NDArray[np.float64]:
    table = {context: naive_probabilities(context, params) for context in CONTEXTS}
    return np.array(
        [np.prod([table[o[:i]][o[i]] for i in range(LENGTH)]) for o in OUTCOMES], np.float64
    )


def take_any_child(tree: DraftTree, choose: Callable[[int], int]) -> Accepted:
    """Wrong: where the chosen token is no child but its neighbour is, the neighbour is taken."""
    children = child_index(tree)

    def biased(row: int) -> int:
        token_id = choose(row)
        near = (token_id + 1) % VOCABULARY
        is_drafted = (row - 1, token_id) in children or (row - 1, near) not in children
        return token_id if is_drafted else near

    return accept(tree, biased)


def look_from_the_parent(tree: DraftTree, choose: Callable[[int], int]) -> Accepted:
    """Wrong: the token after an accepted one comes from the logits before it."""
    parents = {i + 1: parent + 1 for i, parent in enumerate(tree.parents)}
    return accept(tree, lambda row: choose(parents.get(row, 0)))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_sampled_outputs_follow_the_exact_distribution(
    name: str,
    draws: NDArray[np.float64],
    trees: list[tuple[DraftTree, list[Context]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = CONFIGURATIONS[name]
    borders = {c: sampler_borders(c, params, monkeypatch) for c in CONTEXTS}
    for context in CONTEXTS:
        exact = np.cumsum(naive_probabilities(context, params))
        assert borders[context] == pytest.approx(exact, abs=1e-6)
    table = {context: found.tolist() for context, found in borders.items()}
    counts = sample(accept, table, draws, trees)
    assert counts.sum() == NUM_SAMPLES
    assert g_test(counts, exact_outcomes(params)) > ALPHA


@pytest.mark.parametrize("rule", [take_any_child, look_from_the_parent])
def test_a_wrong_acceptance_rule_is_caught(
    rule: Rule, draws: NDArray[np.float64], trees: list[tuple[DraftTree, list[Context]]]
) -> None:
    params = CONFIGURATIONS["temperature"]
    table = {c: np.cumsum(naive_probabilities(c, params)).tolist() for c in CONTEXTS}
    counts = sample(rule, table, draws[:40_000], trees)
    assert g_test(counts, exact_outcomes(params)) < ALPHA


def test_the_table_answers_as_the_sampler_does(
    draws: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = CONFIGURATIONS["penalties"]
    borders = {c: sampler_borders(c, params, monkeypatch) for c in CONTEXTS}
    for seed in range(300):
        sampler, context = Sampler(replace(params, seed=seed), PROMPT), ()
        for position in range(LENGTH):
            logits = torch.tensor(logits_after(context), dtype=torch.float32)
            token_id = sampler.choose(logits[None])
            assert token_id == int((draws[seed, position] >= borders[context]).sum())
            sampler.push(token_id)
            context = (*context, token_id)
