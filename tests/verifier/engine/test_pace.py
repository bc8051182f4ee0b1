"""How long a newcomer is told to wait."""

import pytest

from verifier.engine.pace import DEFAULT_S, MAX_S, Pace


def test_the_wait_follows_from_what_requests_took() -> None:
    pace = Pace(num_slots=4)
    for _ in range(10):
        pace.ended(8.0)
    assert pace.wait_s(15, [0.1] * 4) == pytest.approx(32.0)
    assert pace.wait_s(1, [0.1] * 4) == pytest.approx(4.0)


def test_answers_that_take_longer_than_usual_are_believed_at_once() -> None:
    pace = Pace(num_slots=2)
    pace.ended(1.0)
    assert pace.wait_s(3, [30.0, 50.0]) == pytest.approx(80.0)


def test_the_wait_is_bounded() -> None:
    pace = Pace(num_slots=2)
    assert pace.wait_s(100, []) == DEFAULT_S
    pace.ended(0.001)
    assert pace.wait_s(1, []) == DEFAULT_S
    pace.ended(1e6)
    assert pace.wait_s(100, []) == MAX_S
