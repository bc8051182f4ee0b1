"""The guard: a choice that noise in the logits could change is left open; others stand."""

import random

import pytest
import torch

from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.reference import FAMILIES
from verifier.request import Mode
from verifier.sampling.filters import MAX_NOISE
from verifier.sampling.params import SamplingParams
from verifier.sampling.sampler import Sampler

pytestmark = pytest.mark.slow

VOCABULARY = 700
PROMPT = (1, 5, 5, 9)
PARAMS = {
    "greedy": {},
    "greedy with penalties": {"repetition_penalty": 1.8, "frequency_penalty": 0.5},
    "greedy with bias": {"logit_bias": ((3, 4.0), (9, -100.0))},
    "temperature": {"temperature": 0.8},
    "low temperature": {"temperature": 0.2},
    "penalties": {"temperature": 1.0, "repetition_penalty": 0.6, "presence_penalty": 1.0},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "top_p": {"temperature": 1.1, "top_p": 0.8},
    "min_p": {"temperature": 1.3, "min_p": 0.1},
    "all": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
}


def rounded(seed: int, step: float) -> torch.Tensor:
    """Logits of a model; on a grid, as bfloat16 ones are, so that ties are common."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(VOCABULARY, generator=generator) * 3 / step).round() * step


def noisy(logits: torch.Tensor, margin: float, seed: int) -> torch.Tensor:
    """The same with differences between logits wrong by up to the margin, often by all of it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(logits), generator=generator) - 0.5
    extreme = torch.where(noise > 0, 0.5, -0.5)
    # A hair less than the margin, for the rounding of this very sum.
    return logits + (extreme if seed % 2 else noise) * margin * 0.999


@pytest.mark.parametrize("margin", [1e-3, 0.05, 0.4])
@pytest.mark.parametrize("name", PARAMS)
def test_what_the_guard_lets_pass_no_noise_within_the_margin_changes(
    name: str, margin: float
) -> None:
    num_settled = 0
    for seed in range(60):
        logits = rounded(seed, step=1 / 32)
        sampler = Sampler(SamplingParams(seed=seed, **PARAMS[name]), PROMPT)  # type: ignore[arg-type]
        chosen = sampler.choose(logits, margin=margin)
        if chosen is None:
            continue
        num_settled += 1
        assert sampler.choose(logits) == chosen
        for other in range(8):
            assert sampler.choose(noisy(logits, margin, other)) == chosen
    if margin < 0.01:
        assert num_settled >= 40  # or it would guard everything, and drafts would be no use


@pytest.mark.parametrize("options", [{"top_p": 0.95}, {"top_k": 2}, {"top_k": 2, "top_p": 0.95}])
@pytest.mark.parametrize("shortlist", [2, 8])
def test_the_last_token_that_survives_is_not_in_doubt_when_the_next_is_far(
    options: dict[str, float], shortlist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.sampling.sampler.SHORTLIST", shortlist)
    logits = torch.log(torch.tensor([0.02, 0.70, 0.26, 0.01, 0.01]))
    chosen = [
        Sampler(SamplingParams(temperature=1.0, seed=s, **options), ()).choose(logits, margin=1e-3)  # type: ignore[arg-type]
        for s in range(200)
    ]
    assert chosen.count(2) > 30
    assert chosen.count(None) <= 2


@pytest.mark.parametrize("name", PARAMS)
def test_noise_without_bounds_leaves_every_choice_open_and_none_leaves_none(name: str) -> None:
    for seed in range(10):
        sampler = Sampler(SamplingParams(seed=seed, **PARAMS[name]), PROMPT)  # type: ignore[arg-type]
        logits = rounded(seed, step=1e-4)
        assert sampler.choose(logits, margin=10 * MAX_NOISE) is None
        assert sampler.choose(logits) is not None


def test_requests_that_run_together_say_what_each_seed_says_alone() -> None:
    """As n samples of one prompt do: seeds one after the other, prompts equal."""
    model = target_model(FAMILIES[0].build(), max_sequences=4, max_context=96)
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
