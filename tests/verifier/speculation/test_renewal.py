"""A checkpoint is renewed when its pending rows have cost as much as a renewal."""

from verifier.speculation.budget import StepCurve
from verifier.speculation.renewal import MAX_PENDING, Renewals

STEEP = StepCurve([1, 101], [1.0, 11.0])  # a row adds a tenth of a plain step
FLAT = StepCurve([1, 64], [1.0, 1.0])


def test_nothing_pending_needs_no_renewal() -> None:
    assert not Renewals(STEEP).is_due(1, 0, 8, 6.0)


def test_a_few_cheap_rows_are_run_again_rather_than_renewed() -> None:
    assert not Renewals(STEEP).is_due(1, 2, 8, 6.0)


def test_rows_that_cost_more_at_once_than_a_renewal_are_renewed() -> None:
    # 40 rows cost 4.0; a pass without a draft 5.0, less what its token is worth: 1.8 / 1.5.
    assert Renewals(STEEP).is_due(1, 40, 8, 0.5)


def test_small_costs_add_up_to_a_renewal() -> None:
    renewals = Renewals(STEEP)
    # Each pass pays 0.4; a renewal costs 1.4 - 1.8 / 7 = 1.14.
    assert [renewals.is_due(1, 4, 8, 6.0) for _ in range(3)] == [False, False, True]


def test_a_new_checkpoint_settles_the_account_of_its_sequence_alone() -> None:
    renewals = Renewals(STEEP)
    for sequence_id in (1, 2):
        assert not renewals.is_due(sequence_id, 4, 8, 6.0)
        assert not renewals.is_due(sequence_id, 4, 8, 6.0)
    renewals.is_due(1, 0, 8, 6.0)
    assert not renewals.is_due(1, 4, 8, 6.0)
    assert renewals.is_due(2, 4, 8, 6.0)


def test_the_account_of_a_sequence_that_ended_is_closed() -> None:
    renewals = Renewals(STEEP)
    renewals.is_due(1, 4, 8, 6.0)
    renewals.is_due(1, 4, 8, 6.0)
    renewals.forget(1)
    assert not renewals.is_due(1, 4, 8, 6.0)


def test_rows_that_cost_nothing_are_pending_up_to_a_limit() -> None:
    renewals = Renewals(FLAT)
    assert not renewals.is_due(1, MAX_PENDING, 8, 6.0)
    assert renewals.is_due(1, MAX_PENDING + 1, 8, 6.0)
