"""The gain shown to clients: drafted steps priced as the plain steps they replaced."""

import pytest

from tests.support.models.engine_runs import make_engine, make_request, run_all, target_model
from tests.support.models.reference import FAMILIES
from verifier.engine.counters import PlainTime
from verifier.engine.step import Work
from verifier.model.batch import draft_segment, prompt_segment
from verifier.request import Mode
from verifier.speculation.budget import StepCurve
from verifier.speculation.tree import EMPTY_TREE, DraftTree

CURVE = StepCurve([1, 2, 4, 8], [1.0, 1.5, 2.0, 3.0])
CHAIN = DraftTree((1, 2, 3), (-1, 0, 1), (0.9, 0.8, 0.7))


def work(tree: DraftTree | None) -> Work:
    """A decoding sequence with a draft, or a run of 64 rows of a prompt."""
    segment = (
        prompt_segment(0, 0, (1,) * 64, is_last=False)
        if tree is None
        else draft_segment(0, 9, 7, tree)
    )
    return Work(
        None,  # type: ignore[arg-type]  # prices do not depend on whose work it is
        segment,
        wants_successors=False,
    )


def test_a_token_of_a_drafted_step_is_priced_as_a_plain_step_of_the_batch() -> None:
    assert PlainTime(CURVE).of([work(CHAIN)], 2.0).token_s == 1.0
    assert PlainTime(CURVE).of([work(CHAIN), work(EMPTY_TREE)], 2.2).token_s == 1.5


def test_prompts_read_beside_drafts_would_have_taken_their_time_without_them_too() -> None:
    plain = PlainTime(CURVE).of([work(CHAIN), work(None)], 7.0)
    assert (plain.token_s, plain.prompts_s) == (1.0, 7.0 - 2.0)
    assert PlainTime(CURVE).of([work(CHAIN), work(None)], 1.9).prompts_s == 0.0


def test_a_pass_without_drafts_is_priced_as_what_it_took() -> None:
    plain = PlainTime(CURVE).of([work(EMPTY_TREE), work(None)], 5.0)
    assert (plain.token_s, plain.prompts_s) == (5.0, 0.0)


def test_what_a_plain_step_takes_beyond_its_pass_is_counted_so_that_it_gains_nothing() -> None:
    plain = PlainTime(CURVE)
    for _ in range(200):
        plain.track(1.0)
    assert plain.of([work(EMPTY_TREE)], 2.0).token_s == pytest.approx(3.0)
    assert plain.of([work(CHAIN)], 2.0).token_s == pytest.approx(2.0)


def test_plain_decoding_is_priced_within_half_of_what_it_took() -> None:
    model = target_model(FAMILIES[0].build(), max_sequences=1, max_context=128)
    [(_, plain)] = run_all(make_engine(model, None), [make_request([5, 9, 33], 100, mode=Mode.OFF)])
    assert 0.5 < plain.plain_decode_ms / plain.decode_ms < 1.5
