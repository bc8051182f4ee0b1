"""Models that keep a state: the same words whatever is drafted, reused, shared or cancelled."""

import asyncio
import random

import pytest

from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    steps_of,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import VOCABULARY_SIZE, family
from verifier.engine.events import Completion
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Mode
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

# Scanned in chunks, convolutions alone, and one whose rows never run alone.
NAMES = ("qwen3_5_text", "lfm2", "nemotron_h")
NUM_TOKENS = 24


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> TargetModel:
    found = target_model(family(request.param).build(), max_sequences=3, max_context=192)
    assert found.form is VerificationMode.CHAIN
    return found


def prompt_of(length: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, VOCABULARY_SIZE) for _ in range(length)]


def said(model: TargetModel, prompt: list[int], **options: object) -> list[int]:
    """Plain decoding on an engine of its own."""
    engine = make_engine(model, None, max_sequences=3)
    request = make_request(prompt, NUM_TOKENS, mode=Mode.OFF, **options)  # type: ignore[arg-type]
    [(runs, _)] = run_all(engine, [request])
    return ids_of(runs)


class HalfRight:
    """Drafts of which the first few tokens are right: 0, 1, 2, … and then all of them."""

    def __init__(self, answers: dict[int, list[int]], prompt_lens: dict[int, int]) -> None:
        self.answers, self.prompt_lens = answers, prompt_lens
        self.num_right = 0

    def __call__(self, sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        done = len(tokens) - self.prompt_lens[sequence_id]
        rest = self.answers[sequence_id][done : done + 4]
        self.num_right = (self.num_right + 1) % 5
        wrong = [(token + 1) % VOCABULARY_SIZE for token in rest[self.num_right :]]
        return path_tree([*rest[: self.num_right], *wrong])


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=5)])
def test_drafts_that_are_half_right_change_no_word(
    model: TargetModel, sampling: SamplingParams
) -> None:
    some = [prompt_of(length, seed=length) for length in (30, 1, 9)]
    answers = [said(model, prompt, sampling=sampling) for prompt in some]
    drafts = HalfRight(
        {i + 1: answer for i, answer in enumerate(answers)},
        {i + 1: len(prompt) for i, prompt in enumerate(some)},
    )
    engine = make_engine(model, FakeDrafts(drafts), max_sequences=3, prefill_rows=8)
    results = run_all(engine, [make_request(p, NUM_TOKENS, sampling=sampling) for p in some])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert all(completion.num_accepted_tokens > 0 for _, completion in results)


def test_a_second_turn_starts_from_a_kept_state(model: TargetModel) -> None:
    first = prompt_of(60)
    answer = said(model, first)
    second = [*first, *answer, *prompt_of(10, seed=2)]
    expected = said(model, second)

    async def both() -> list[tuple[list[int], int]]:
        engine = make_engine(model, None, max_sequences=3)
        engine.start()
        found = []
        for prompt in (first, second, [*first, *prompt_of(5, seed=3)]):
            runs, completion = await collect(engine, make_request(prompt, NUM_TOKENS))
            found.append((ids_of(runs), completion.num_reused_tokens))
        await engine.stop()
        return found

    found = asyncio.run(both())
    assert [ids for ids, _ in found[:2]] == [answer, expected]
    # The last token of the answer was never run; one that never runs alone is a token behind.
    assert found[1][1] >= len(first) + NUM_TOKENS - 2
    # Another end than the one that was heard: from the state before the prompt's last token.
    assert found[2][1] == len(first) - 1


def test_sequences_with_one_prompt_share_its_state(model: TargetModel) -> None:
    prompt = prompt_of(50, seed=4)
    answer = said(model, prompt)
    engine = make_engine(model, None, max_sequences=3)
    results = run_all(engine, [make_request(prompt, NUM_TOKENS) for _ in range(3)])
    assert [ids_of(runs) for runs, _ in results] == [answer] * 3
    assert [completion.num_reused_tokens for _, completion in results] == [0, 49, 49]


def test_a_sequence_that_is_cancelled_leaves_the_others_alone(model: TargetModel) -> None:
    kept, dropped = prompt_of(12, seed=6), prompt_of(40, seed=7)
    answers = [said(model, kept), said(model, dropped)]
    drafts = HalfRight({1: answers[1], 2: answers[0]}, {1: len(dropped), 2: len(kept)})

    async def main() -> tuple[list[int], list[int]]:
        engine = make_engine(model, FakeDrafts(drafts), max_sequences=3)
        engine.start()
        sequence = engine.submit(make_request(dropped, NUM_TOKENS))
        other = asyncio.create_task(collect(engine, make_request(kept, NUM_TOKENS)))
        async for event in sequence.stream():
            if isinstance(event, Completion) or sequence.num_output > 6:
                break
        engine.cancel(sequence)
        runs, _ = await other
        drafts.answers[3], drafts.prompt_lens[3] = answers[1], len(dropped)
        again, _ = await collect(engine, make_request(dropped, NUM_TOKENS))
        await engine.stop()
        return ids_of(runs), ids_of(again)

    assert asyncio.run(main()) == (answers[0], answers[1])


def test_what_was_right_of_a_draft_saves_steps(model: TargetModel) -> None:
    prompt = prompt_of(10, seed=8)
    drafts = HalfRight({1: said(model, prompt)}, {1: len(prompt)})
    engine = make_engine(model, FakeDrafts(drafts), max_sequences=3)
    [(_, completion)] = run_all(engine, [make_request(prompt, NUM_TOKENS)])
    # Of each five drafts 0 to 4 tokens are right: three tokens a step, less a renewal or two.
    assert completion.num_steps <= NUM_TOKENS / 2
    assert sum(step.num_accepted for step in steps_of(engine)) == completion.num_accepted_tokens
