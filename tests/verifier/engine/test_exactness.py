"""Rounding: wide passes differ in the last bits; the guard and the exact mode keep the words."""

import random
from dataclasses import replace

import pytest
import torch

from tests.support.models.engine_runs import (
    FREE_NODES,
    LetterTokenizer,
    ids_of,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE, family, generate
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.model.measurements import measure
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.probe import choose_form
from verifier.request import Exactness, Mode, Request
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

PROMPTS = [[5, 9, 33, 4, 17], [3] * 20, [11, 60], [(5 * i) % 61 + 3 for i in range(30)]]
NUM_TOKENS = 60


def small_model(name: str, dtype: torch.dtype = torch.bfloat16) -> TargetModel:
    hf = family(name).build().to(dtype)
    model = TargetModel(hf, "small", max_context=128)
    choose_form(model, hf, num_slots=2, draft_rows=65)
    assert model.form is not VerificationMode.PLAIN, model.reason
    return model


def make_engine(model: TargetModel, drafts: FakeDrafts | None, margin: float) -> Engine:
    config = VerifierConfig(model="small")
    rows_agree = model.form is not VerificationMode.PLAIN and measure(model).rows_agree
    measured = replace(FREE_NODES, margin=margin, rows_agree=rows_agree)
    return Engine(model, LetterTokenizer(), drafts, measured, config, Counters())  # type: ignore[arg-type]


def with_exactness(request: Request, exactness: Exactness) -> Request:
    return replace(request, speculation=replace(request.speculation, exactness=exactness))


def requests(mode: Mode, exactness: Exactness) -> list[Request]:
    return [with_exactness(make_request(p, NUM_TOKENS, mode=mode), exactness) for p in PROMPTS]


def knowing(answers: list[list[int]], first_id: int = 1) -> FakeDrafts:
    """Drafts that hold the plain answer, gaps and noise."""
    rng = random.Random(2)

    def drafter(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        index = sequence_id - first_id
        rest = answers[index][len(tokens) - len(PROMPTS[index]) :][:8]
        if rng.random() < 0.3:
            return random_tree(rng, 20, range(VOCABULARY_SIZE))
        # A decoy comes first: where only chains are verified it would hide the answer.
        decoys = [*rest[:3], *(rng.randrange(VOCABULARY_SIZE) for _ in rest[3:])]
        return path_tree(rest, decoys=decoys)

    return FakeDrafts(drafter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen2", "gpt2"])
def test_exact_mode_is_bit_equal_with_drafting_on_and_off(name: str, dtype: torch.dtype) -> None:
    model = small_model(name, dtype)
    off = run_all(make_engine(model, None, 0.0), requests(Mode.OFF, Exactness.EXACT))
    answers = [ids_of(runs) for runs, _ in off]
    drafted = run_all(
        make_engine(model, knowing(answers), 0.0), requests(Mode.TREE, Exactness.EXACT)
    )
    assert [ids_of(runs) for runs, _ in drafted] == answers
    assert sum(completion.num_accepted_tokens for _, completion in drafted) > NUM_TOKENS


def test_exact_mode_verifies_no_drafts_where_rows_of_a_pass_round_differently() -> None:
    model = small_model("mixtral")
    off = run_all(make_engine(model, None, 0.0), requests(Mode.OFF, Exactness.EXACT))
    answers = [ids_of(runs) for runs, _ in off]
    drafted = run_all(
        make_engine(model, knowing(answers), 0.0), requests(Mode.TREE, Exactness.EXACT)
    )
    assert [ids_of(runs) for runs, _ in drafted] == answers
    assert sum(completion.num_draft_tokens for _, completion in drafted) == 0


def test_exact_mode_serves_a_model_without_drafts_as_it_is() -> None:
    mamba = family("mamba")
    model = target_model(mamba.build(), max_sequences=2, max_context=128)
    [(runs, _)] = run_all(
        make_engine(model, None, 0.0),
        [with_exactness(make_request(PROMPTS[0], 20), Exactness.EXACT)],
    )
    assert ids_of(runs) == generate(mamba.build(), PROMPTS[0], 20, [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_guard_decides_near_ties_by_a_plain_pass(dtype: torch.dtype) -> None:
    """With a margin so wide that everything is a near tie, every token comes from a plain pass."""
    model = small_model("llama", dtype)
    plain = [
        ids_of(run_all(make_engine(model, None, 0.0), [request])[0][0])
        for request in requests(Mode.OFF, Exactness.GUARDED)
    ]
    for i, request in enumerate(requests(Mode.TREE, Exactness.GUARDED)):
        drafts = knowing([plain[i]], first_id=1)
        drafts._drafter = (
            lambda sid, tokens, n, i=i: path_tree(  # type: ignore[misc]
                plain[i][len(tokens) - len(PROMPTS[i]) :][:8]
            )
        )
        [(runs, completion)] = run_all(make_engine(model, drafts, 1e9), [request])
        assert ids_of(runs) == plain[i]
        assert completion.num_rechecks > 0
        assert completion.num_accepted_tokens == 0


def test_the_guard_seldom_steps_in_and_costs_no_words_in_float32() -> None:
    hf = FAMILIES[0].build()
    model = TargetModel(hf, "small", max_context=128)
    choose_form(model, hf, num_slots=2, draft_rows=65)
    margin = measure(model).margin
    assert 0 < margin < 1e-3
    plain = run_all(make_engine(model, None, margin), requests(Mode.OFF, Exactness.GUARDED))
    answers = [ids_of(runs) for runs, _ in plain]
    drafted = run_all(
        make_engine(model, knowing(answers), margin), requests(Mode.TREE, Exactness.GUARDED)
    )
    assert [ids_of(runs) for runs, _ in drafted] == answers
    assert sum(completion.num_rechecks for _, completion in drafted) <= 2
    assert sum(completion.num_accepted_tokens for _, completion in drafted) > NUM_TOKENS
