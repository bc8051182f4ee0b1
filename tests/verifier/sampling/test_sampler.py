"""Sampling equals Hugging Face's processors and an inverse CDF in token-id order."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from verifier.sampling.draws import uniforms
from verifier.sampling.params import SamplingError, SamplingParams, UnfulfillableError
from verifier.sampling.ranking import logprobs, rank, top_ids
from verifier.sampling.sampler import Sampler
from verifier.sampling.token_counts import TokenCounts

FILTERS = [
    {},
    {"top_k": 5},
    {"top_k": 700},
    {"top_k": 3000, "top_p": 0.6},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"top_p": 0.7, "min_p": 0.1, "repetition_penalty": 1.4},
]


def random_logits(seed: int, vocabulary: int = 3000, spread: float = 3.0) -> Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def processed_by_transformers(logits: Tensor, params: SamplingParams, ids: list[int]) -> Tensor:
    """The distribution that `generate` would draw from."""
    scores, input_ids = logits[None].clone(), torch.tensor([ids])
    processors = [
        (params.repetition_penalty != 1.0, RepetitionPenaltyLogitsProcessor, "repetition_penalty"),
        (True, TemperatureLogitsWarper, "temperature"),
        (params.top_k > 0, TopKLogitsWarper, "top_k"),
        (params.top_p < 1.0, TopPLogitsWarper, "top_p"),
        (params.min_p > 0.0, MinPLogitsWarper, "min_p"),
    ]
    for applies, processor, name in processors:
        if applies:
            scores = processor(getattr(params, name))(input_ids, scores)
    return torch.softmax(scores[0].double(), -1)


@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_draws_are_the_inverse_cdf_of_transformers_distribution(
    options: dict[str, float], temperature: float
) -> None:
    prompt = (1, 5, 5, 9)
    for seed in range(40):
        params = SamplingParams(temperature=temperature, seed=seed, **options)  # type: ignore[arg-type]
        logits = random_logits(seed)
        probabilities = processed_by_transformers(logits, params, list(prompt)).numpy()
        chosen = Sampler(params, prompt).choose(logits[None])
        upper = float(probabilities[: chosen + 1].sum())
        [u] = uniforms(seed, 0, 1)
        assert probabilities[chosen] > 0.0
        assert upper - probabilities[chosen] - 1e-6 <= u <= upper + 1e-6


@pytest.mark.parametrize("options", FILTERS)
def test_shortlist_and_full_sort_choose_the_same(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = [random_logits(seed, vocabulary=5000) for seed in range(30)]

    def choices() -> list[int]:
        params = [SamplingParams(temperature=0.9, seed=s, **options) for s in range(30)]  # type: ignore[arg-type]
        return [Sampler(p, (3,)).choose(x[None]) for p, x in zip(params, logits, strict=True)]

    usual = choices()
    for size in (1, 8, 5000):
        monkeypatch.setattr("verifier.sampling.draws.SHORTLIST", size)
        assert choices() == usual


@pytest.mark.parametrize("options", FILTERS)
def test_longer_lists_choose_bit_for_bit_what_the_whole_vocabulary_does(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.sampling.draws.SHORTLIST", 2)
    # Rounded, so that tokens are tied at the lists' ends too.
    logits = [(random_logits(s, vocabulary=3000) * 8).round() / 8 for s in range(40)]

    def choices() -> list[int]:
        params = [SamplingParams(temperature=1.5, seed=s, **options) for s in range(40)]  # type: ignore[arg-type]
        return [Sampler(p, (3,)).choose(x[None]) for p, x in zip(params, logits, strict=True)]

    monkeypatch.setattr("verifier.sampling.draws.LONGER_LISTS", ())
    whole = choices()
    for lists in ((3, 20), (50,), (50, 400, 2999), (3000,)):
        monkeypatch.setattr("verifier.sampling.draws.LONGER_LISTS", lists)
        assert choices() == whole


@pytest.mark.parametrize("shortlist", [4, 16])
@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.3}, {"min_p": 1.0}])
def test_tokens_tied_at_the_border_all_survive(
    options: dict[str, float], shortlist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.sampling.draws.SHORTLIST", shortlist)
    logits = torch.tensor([0.0, 2.0] * 8)
    params = [SamplingParams(temperature=1.0, seed=s, **options) for s in range(400)]  # type: ignore[arg-type]
    assert {Sampler(p, ()).choose(logits[None]) for p in params} == set(range(1, 16, 2))


def test_randomness_depends_on_seed_and_position_alone() -> None:
    params = SamplingParams(temperature=1.0, seed=2**64 - 1)
    logits = random_logits(0)
    straight, other = Sampler(params, (1, 2)), Sampler(params, (7,))
    for _ in range(20):
        token_id = straight.choose(logits[None])
        # Looking twice, as two drafted branches would, changes nothing.
        assert straight.choose(logits[None]) == token_id == other.choose(logits[None])
        straight.push(token_id)
        other.push(0)
    draws = {u for seed in range(50) for u in uniforms(seed, 0, 50).tolist()}
    assert len(draws) == 2500
    assert abs(float(np.mean(list(draws))) - 0.5) < 0.03


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("position", [0, 1, 63, 2**40])
def test_random_numbers_that_are_made_together_are_those_of_each_position(
    seed: int, position: int
) -> None:
    alone = [np.random.Philox(key=seed, counter=position + i).random_raw() for i in range(70)]
    expected = [(int(bits) >> 11) * 2.0**-53 for bits in alone]
    assert uniforms(seed, position, 70).tolist() == expected
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), ())
    assert [sampler.uniform(position + i) for i in (0, 69, 3, 64)] == [
        expected[i] for i in (0, 69, 3, 64)
    ]


def test_uniform_numbers_of_neighbouring_positions_are_independent() -> None:
    draws = np.array([uniforms(seed, 0, 3) for seed in range(4000)])
    correlations = np.corrcoef(draws.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.06
    counts = np.histogram(draws, bins=16, range=(0, 1))[0]
    assert ((counts - 750) ** 2 / 750).sum() < 50  # chi-squared, 15 degrees: p < 2e-5


@pytest.mark.parametrize("vocabulary", [7, 600, 5000])
def test_penalties_count_the_output_and_repetition_the_prompt_too(vocabulary: int) -> None:
    params = SamplingParams(repetition_penalty=1.5, frequency_penalty=0.3, presence_penalty=0.2)
    prompt, output = (1, 4, 4), [4, 2, 2, 6, 2]
    sampler = Sampler(params, prompt)
    for step in range(len(output) + 1):
        logits = random_logits(step, vocabulary, spread=1.0)
        expected = logits.double().numpy().copy()
        for token_id in {*prompt, *output[:step]}:
            value = expected[token_id]
            expected[token_id] = value * 1.5 if value < 0 else value / 1.5
        for token_id in set(output[:step]):
            expected[token_id] -= 0.3 * output[:step].count(token_id) + 0.2
        kept = logits.clone()
        assert sampler.choose(logits[None]) == int(expected.argmax())
        assert torch.equal(kept, logits)
        if step < len(output):
            sampler.push(output[step])


def test_bias_adds_and_minus_100_bans() -> None:
    logits = torch.tensor([1.0, 500.0, 3.0, 0.0])
    params = SamplingParams(logit_bias=((1, -100.0), (3, 2.5), (0, 2.2)))
    assert Sampler(params, ()).choose(logits[None]) == 0
    params = SamplingParams(logit_bias=((1, -99.0),))
    assert Sampler(params, ()).choose(logits[None]) == 1


def test_ending_ids_are_banned_until_min_tokens() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, 1.0]])
    sampler = Sampler(SamplingParams(), (), ending_ids=frozenset({1, 2}), min_tokens=2)
    reference = MinNewTokensLengthLogitsProcessor(0, 2, [1, 2], device="cpu")
    chosen: list[int] = []
    for _ in range(4):
        assert sampler.is_free == (len(chosen) >= 2)
        ids = torch.tensor([chosen], dtype=torch.long)
        expected = int(reference(ids, logits.clone()).argmax())
        chosen.append(sampler.choose(logits))
        assert chosen[-1] == expected
        sampler.push(chosen[-1])
    assert chosen == [3, 3, 1, 1]


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 9e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = random_logits(3)
    sampler = Sampler(SamplingParams(temperature=temperature), ())
    assert sampler.params.is_greedy
    assert sampler.choose(logits[None]) == int(logits.argmax())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=0.5, frequency_penalty=1.0),
    ],
)
@pytest.mark.parametrize("vocabulary", [9, 6000])
def test_logits_that_are_not_finite_raise(
    params: SamplingParams, bad: float, vocabulary: int
) -> None:
    logits = random_logits(1, vocabulary)
    logits[vocabulary // 2] = bad
    with pytest.raises(SamplingError, match="no token can be chosen"):
        Sampler(params, (1,)).choose(logits[None])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banning_every_token_raises(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, logit_bias=tuple((i, -100.0) for i in range(5))
    )
    with pytest.raises(UnfulfillableError, match=r"logit_bias: .* -inf"):
        Sampler(params, ()).choose(random_logits(1, 5)[None])


@pytest.mark.parametrize("options", [{}, {"top_k": 50}, {"top_p": 0.99}])
def test_masked_tokens_are_never_drawn(options: dict[str, float]) -> None:
    logits = torch.full((2000,), -torch.inf)
    logits[[7, 1999]] = torch.tensor([1.0, 2.0])
    drawn = {
        Sampler(SamplingParams(temperature=1.0, seed=seed, **options), ()).choose(logits[None])  # type: ignore[arg-type]
        for seed in range(60)
    }
    assert drawn == {7, 1999}


@pytest.mark.parametrize("vocabulary", [5, 4096, 4097, 50257, 100_000])
def test_fast_rankings_equal_torch(vocabulary: int) -> None:
    logits = torch.stack([random_logits(seed, vocabulary) for seed in range(4)])
    logits[3, 2:4] = 99.0
    ranking = rank(logits, 3)
    values, ids = logits.topk(3)
    assert ranking.best.tolist() == logits.argmax(1).tolist()
    assert ranking.logits.tolist() == values[:, 0].tolist()
    assert [set(row) for row in ranking.top.tolist()] == [set(row) for row in ids.tolist()]
    for k in (1, 8, 512):
        found = top_ids(logits, k)
        assert torch.equal(logits.gather(1, found), logits.topk(min(k, vocabulary)).values)
        assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.mark.parametrize("vocabulary", [5, 100_000])
def test_no_rows_have_no_ranking(vocabulary: int) -> None:
    ranking = rank(torch.zeros(0, vocabulary), 8)
    assert len(ranking.best) == len(ranking.logits) == len(ranking.top) == 0


def test_argmax_finds_the_first_maximum_anywhere() -> None:
    for position in (0, 511, 512, 6143, 6144, 6399):
        logits = torch.zeros(2, 6400)
        logits[0, position:] = 1.0
        logits[1, position] = torch.nan
        assert rank(logits, 1).best.tolist() == [position, position]


@pytest.mark.parametrize("num_top", [0, 5, 20])
def test_logprobs_are_those_of_the_raw_logits(num_top: int) -> None:
    logits = random_logits(5, 6000)
    expected = torch.log_softmax(logits.double(), -1)
    other = random_logits(6, 6000)
    [found, _] = logprobs(torch.stack([other, logits]), [1, 0], [17, 3], num_top)
    best = expected.topk(num_top)
    assert found.logprob == pytest.approx(float(expected[17]), abs=1e-5)
    assert [token_id for token_id, _ in found.top] == best.indices.tolist()
    assert [p for _, p in found.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_token_counts_grow_past_their_first_size() -> None:
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(0, 300, 90).tolist(), rng.integers(0, 600, 900).tolist()
    counts = TokenCounts(prompt)
    for token_id in output:
        counts.push(token_id)
    found = dict(zip(counts.ids.tolist(), counts.in_output.tolist(), strict=True))
    assert found == {i: output.count(i) for i in {*prompt, *output}}
