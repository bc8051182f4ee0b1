"""Drafts are asked for seldom while they are no use, and at once again when they are."""

import time

import pytest

from tests.support.models.engine_runs import (
    FREE_NODES,
    ids_of,
    make_engine,
    make_request,
    run_all,
    steps_of,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import FAMILIES, generate
from verifier.engine.counters import StepStats, saved_beside_prompts
from verifier.engine.draft_coordinator import DraftCoordinator
from verifier.engine.step import StepResult
from verifier.model.measurements import Measurements
from verifier.speculation.budget import StepCurve
from verifier.speculation.controller import EVERY_STEP_BELOW, LIMIT, RARELY, SELDOM, Controller
from verifier.speculation.tree import EMPTY_TREE, DraftTree

PROMPT = [5, 9, 33, 4, 17]
NUM_TOKENS = 120


class AskedDrafts(FakeDrafts):
    """Knows the answer from the token `first` on; has a tree only where it was asked for one."""

    def __init__(self, answer: list[int], start: int) -> None:
        super().__init__(self.draft)
        self.answer, self.first = answer, start
        self.num_asked = 0

    def request(self, wanted: dict[int, int]) -> None:
        super().request(wanted)
        self.num_asked += bool(wanted)

    def draft(self, sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        self._wanted = {}
        done = len(tokens) - len(PROMPT)
        return (
            path_tree(self.answer[done : done + 4])
            if max_nodes and done >= self.first
            else EMPTY_TREE
        )


@pytest.mark.parametrize("start", [0, 60, NUM_TOKENS])
def test_drafts_that_are_no_use_are_asked_for_seldom_until_they_are(start: int) -> None:
    hf = FAMILIES[0].build()
    answer = generate(hf, PROMPT, NUM_TOKENS, [])
    drafts = AskedDrafts(answer, start)
    engine = make_engine(target_model(hf, max_sequences=2, max_context=250), drafts)
    [(runs, completion)] = run_all(engine, [make_request(PROMPT, NUM_TOKENS)])
    assert ids_of(runs) == answer
    num_useless = EVERY_STEP_BELOW + start / RARELY if start else 0
    num_useful = (NUM_TOKENS - start) / 5  # four drafted tokens and one more a step
    assert drafts.num_asked <= num_useless + num_useful + 4
    assert completion.num_accepted_tokens >= 0.8 * (NUM_TOKENS - start) - 2 * SELDOM


def test_prompts_that_keep_coming_do_not_keep_drafting_off() -> None:
    drafting = coordinator(FREE_NODES.curve)
    controller = drafting.controller = Controller(lambda num_sequences: 1.0)
    while controller.is_on:
        drafted = controller.allows_drafts  # and takes twice as long as without
        controller.record(num_sequences=1, num_emitted=1, seconds=1.0 + drafted, drafted=drafted)
    nothing = StepResult([], 0, 0.1)
    for _ in range(1000):
        drafting.learn(nothing, decoding())
    assert controller.is_on


def test_steps_that_neither_ask_nor_verify_are_plain_ones() -> None:
    drafting = coordinator(CURVE)
    for _ in range(100):  # slow ones, which would put drafting off if they were its own
        drafting.learn(StepResult([], 0, 0.1), decoding(num_prompt_rows=0, is_drafting=True))
        drafting.learn(StepResult([], 0, 0.1), decoding(num_prompt_rows=0, step_s=0.01))
    assert drafting.controller.is_on
    assert drafting.controller.gain_ratio == 1.0, "nothing was compared"


def test_drafts_that_lose_beside_prompts_that_keep_coming_go_off() -> None:
    drafting = coordinator(CURVE)
    controller = drafting.controller
    nothing = StepResult([], 0, 0.1)
    useless = decoding(num_draft_nodes=10)  # each takes 0.2 of a plain step
    for _ in range(int(2 * LIMIT / 0.2) + 1):
        assert controller.is_on
        drafting.learn(nothing, useless)
    assert not controller.is_on


def test_drafts_that_pay_beside_prompts_that_keep_coming_stay_on() -> None:
    drafting = coordinator(CURVE)
    useful = decoding(num_draft_nodes=10, num_emitted=2)
    for _ in range(100):
        drafting.learn(StepResult([], 0, 0.1), useful)
    assert drafting.controller.is_on


def test_what_drafts_save_beside_prompts_is_tokens_less_rows() -> None:
    for num_decoding, num_emitted, saved in [(1, 1, -0.2), (1, 2, 0.8), (2, 2, -0.1 / 0.51)]:
        stats = decoding(num_draft_nodes=10, num_emitted=num_emitted, num_decoding=num_decoding)
        assert saved_beside_prompts(stats, CURVE) == pytest.approx(saved)


CURVE = StepCurve([1, 101], [0.5, 1.5])  # each row a fiftieth of a plain step


def coordinator(curve: StepCurve) -> DraftCoordinator:
    """Without a drafter: what it learns does not depend on one."""
    model = target_model(FAMILIES[0].build(), max_sequences=1, max_context=8)
    return DraftCoordinator(None, model, Measurements(curve))


def decoding(
    *,
    num_draft_nodes: int = 0,
    num_emitted: int = 1,
    num_decoding: int = 1,
    num_prompt_rows: int = 64,
    is_drafting: bool = False,
    step_s: float = 0.1,
) -> StepStats:
    return StepStats(
        num_decoding=num_decoding,
        num_prompt_rows=num_prompt_rows,
        num_draft_nodes=num_draft_nodes,
        num_expected=0.0,
        num_accepted=0,
        num_emitted=num_emitted,
        is_drafting=is_drafting or num_draft_nodes > 0,
        step_s=step_s,
        forward_s=0.1,
        draft_wait_s=0.0,
    )


class SlowDrafts(FakeDrafts):
    """Every tree takes a moment, and holds nothing."""

    def wait(self, deadline_s: float) -> None:
        time.sleep(0.02)


def test_the_time_of_a_step_includes_its_wait_for_drafts() -> None:
    model = target_model(FAMILIES[0].build(), max_sequences=1, max_context=64)
    engine = make_engine(model, SlowDrafts(lambda sequence_id, tokens, max_nodes: EMPTY_TREE))
    run_all(engine, [make_request([5, 9, 33], 8)])
    waited = [step for step in steps_of(engine) if step.draft_wait_s]
    assert waited
    assert all(step.step_s > step.draft_wait_s + step.forward_s for step in waited)
