"""Drafts are asked for seldom while they are no use, and at once again when they are."""

import pytest

from tests.engine_runs import FREE_NODES, ids_of, make_engine, make_request, run_all, target_model
from tests.fake_drafts import FakeDrafts, path_tree
from tests.reference import FAMILIES, generate
from verifier.controller import Controller
from verifier.drafting import ASK_EVERY, RARELY_AFTER, Drafting
from verifier.step import StepResult
from verifier.step_stats import StepStats
from verifier.tree import EMPTY_TREE, DraftTree

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
    num_useless = RARELY_AFTER + (start - RARELY_AFTER) / ASK_EVERY if start else 0
    num_useful = (NUM_TOKENS - start) / 5  # four drafted tokens and one more a step
    assert drafts.num_asked <= num_useless + num_useful + 4
    assert completion.num_accepted_tokens >= 0.8 * (NUM_TOKENS - start) - 2 * ASK_EVERY


def test_prompts_that_keep_coming_do_not_keep_drafting_off() -> None:
    drafting = Drafting(None, FREE_NODES.curve)
    controller = drafting.controller = Controller(lambda num_sequences: 1.0)
    while controller.is_on:
        drafted = controller.allows_drafts  # and takes twice as long as without
        controller.record(num_sequences=1, num_emitted=1, seconds=1.0 + drafted, drafted=drafted)
    nothing = StepResult([], 0, 0.1)
    for _ in range(1000):
        drafting.learn(nothing, decoding_beside_a_prompt())
    assert controller.is_on


def decoding_beside_a_prompt() -> StepStats:
    return StepStats(
        num_decoding=1,
        num_prompt_rows=64,
        num_draft_nodes=0,
        num_expected=0.0,
        num_accepted=0,
        num_emitted=1,
        is_drafting=False,
        step_s=0.1,
        forward_s=0.1,
        draft_wait_s=0.0,
    )
