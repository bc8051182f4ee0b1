"""The drafter is asked about useful sequences at every step, about others ever more rarely."""

import pytest

from verifier.speculation.controller import (
    EVERY_STEP_BELOW,
    RARELY,
    RARELY_BELOW,
    SELDOM,
    DraftBackoff,
)

USEFUL, USELESS = 1, 2


def asked_after(asking: DraftBackoff, num_steps: int) -> list[list[int]]:
    """Which of the two sequences are asked about after each of so many more steps."""
    due = []
    for _ in range(num_steps):
        asking.note(USEFUL, was_useful=True)
        asking.note(USELESS, was_useful=False)
        due.append(asking.due([USEFUL, USELESS]))
    return due


@pytest.fixture
def asking() -> DraftBackoff:
    opened = DraftBackoff()
    opened.open(USEFUL)
    opened.open(USELESS)
    return opened


def test_a_useful_sequence_is_asked_about_after_every_step(asking: DraftBackoff) -> None:
    assert all(USEFUL in due for due in asked_after(asking, 200))


def test_a_useless_one_is_asked_about_ever_more_rarely_but_never_forgotten(
    asking: DraftBackoff,
) -> None:
    is_due = [USELESS in due for due in asked_after(asking, 200)]
    assert all(is_due[: EVERY_STEP_BELOW - 1])
    assert sum(is_due[:RARELY_BELOW]) <= EVERY_STEP_BELOW + RARELY_BELOW / RARELY
    for start in range(RARELY_BELOW, 200 - SELDOM, SELDOM):
        assert sum(is_due[start : start + SELDOM]) == 1


def test_useless_ones_are_asked_about_together(asking: DraftBackoff) -> None:
    asked_after(asking, 21)
    asking.open(3)
    together = 0
    for _ in range(100):
        asking.note(USELESS, was_useful=False)
        asking.note(3, was_useful=False)
        due = asking.due([USELESS, 3])
        together += due == [USELESS, 3]
    assert together >= 100 / SELDOM - 1
    assert asking.due([]) == []


def test_one_that_proves_useful_again_is_asked_about_at_once(asking: DraftBackoff) -> None:
    asked_after(asking, 100)
    asking.note(USELESS, was_useful=True)
    assert asking.due([USELESS]) == [USELESS]


def test_what_has_ended_takes_no_memory(asking: DraftBackoff) -> None:
    asking.forget(USELESS)
    asking.forget(USELESS)
    asking.note(USELESS, was_useful=False)  # its last step is judged after its end
    asking.open(USELESS)
    assert asking.due([USELESS]) == [USELESS], "nothing is remembered of it"
