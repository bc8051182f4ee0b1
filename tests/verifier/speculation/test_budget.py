"""The budget takes the nodes that raise expected tokens per second, and none that do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.speculation.budget import MIN_GAIN, Offer, StepCurve, choose_apart, choose_nodes

falling = st.lists(st.floats(0, 1), max_size=8).map(lambda p: sorted(p, reverse=True))


def offers(*probabilities: list[float], kv_len: int = 100) -> list[Offer]:
    return [Offer(np.array(p, float), kv_len) for p in probabilities]


@given(st.lists(falling, min_size=1, max_size=4), st.floats(0.0, 1.0), st.integers(1, 5))
def test_no_cut_promises_more_tokens_per_second(
    probabilities: list[list[float]], slope: float, num_rows: int
) -> None:
    curve = StepCurve([1, 100], [1.0, 1.0 + 99 * slope])

    def rate(counts: list[int]) -> float:
        tokens = sum(sum(p[:n]) for p, n in zip(probabilities, counts, strict=True))
        rows = num_rows + sum(counts)
        return float((len(probabilities) + tokens) / curve.seconds(np.array([rows]))[0])

    chosen = choose_nodes(curve, offers(*probabilities), len(probabilities), num_rows)
    assert all(0 <= n <= len(p) for n, p in zip(chosen, probabilities, strict=True))
    flat = sorted((p for ps in probabilities for p in ps), reverse=True)
    plain = rate([0] * len(probabilities))
    best = max(
        (len(probabilities) + sum(flat[:n])) / curve.seconds(np.array([num_rows + n]))[0]
        for n in range(len(flat) + 1)
    )
    assert rate(chosen) >= best * (1 - 1e-9) or chosen == [0] * len(probabilities)
    if best > MIN_GAIN * plain * (1 + 1e-9):
        assert any(chosen), "a gain that is worth the risk was left out"
    if best < MIN_GAIN * plain * (1 - 1e-9):
        assert not any(chosen), "a small gain is not worth the risk"


def test_hopeless_drafts_are_left_out() -> None:
    curve = StepCurve([1, 2, 64], [1.0, 1.1, 3.0])
    assert choose_nodes(curve, offers([0.01] * 10, [0.02]), 2, 2) == [0, 0]


def test_certain_drafts_are_taken_whole() -> None:
    curve = StepCurve([1, 2, 64], [1.0, 1.1, 3.0])
    assert choose_nodes(curve, offers([1.0] * 10, [0.0] * 3), 2, 2)[0] == 10


def test_no_drafts_cost_no_choice() -> None:
    assert choose_nodes(StepCurve([1, 2], [1.0, 1.0]), offers([], []), 2, 2) == [0, 0]


def test_a_first_row_that_costs_much_must_pay_for_it() -> None:
    curve = StepCurve([8, 9, 16, 64], [1.0, 1.1, 1.3, 4.0])
    one_likely = offers([0.6], *[[]] * 7)
    assert sum(choose_nodes(curve, one_likely, 8, 8)) == 0
    assert sum(choose_nodes(curve, offers(*[[0.6]] * 8), 8, 8)) == 8


def test_a_small_gain_is_not_worth_the_risk() -> None:
    curve = StepCurve([1, 64], [1.0, 1.0])
    assert choose_nodes(curve, offers([MIN_GAIN - 1.01]), 1, 1) == [0]
    assert choose_nodes(curve, offers([MIN_GAIN - 0.99]), 1, 1) == [1]


def test_tracking_moves_the_curve_towards_what_is_measured() -> None:
    curve = StepCurve([1, 8, 64], [1.0, 2.0, 4.0])
    for _ in range(200):
        curve.track(8, 3.0)
    assert curve.seconds(np.array([8]))[0] == pytest.approx(3.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(1e-4, 10.0)), max_size=300))
def test_whatever_is_tracked_more_rows_cost_more_and_none_are_free(
    steps: list[tuple[int, float]],
) -> None:
    curve = StepCurve([1, 8, 9, 64], [1.0, 1.0, 1.0, 1.0])
    for rows, seconds in steps:
        curve.track(rows, seconds)
    times = curve.seconds(np.arange(1, 100))
    assert times[0] > 0
    assert (np.diff(times) >= -1e-12 * times[-1]).all()


def test_a_narrow_point_that_is_out_of_date_makes_wider_ones_no_cheaper_than_nothing() -> None:
    curve = StepCurve([1, 64], [1.0, 1.0])
    for _ in range(100):
        curve.track(64, 0.001)
    for _ in range(20):
        curve.track(1, 1e-9)
        assert curve.at(64) > 0


def test_a_disturbed_measurement_hides_no_gain() -> None:
    noisy = StepCurve([1, 2, 4, 16, 64], [1.0, 9.0, 1.2, 1.9, 4.0])
    assert sum(choose_nodes(noisy, offers([0.9] * 8), 1, 1)) == 8


def test_the_curve_follows_the_machine_where_it_is_not_measured() -> None:
    curve = StepCurve([1, 8, 64], [1.0, 2.0, 4.0])
    for _ in range(100):
        curve.track(1, 0.5)
    assert curve.seconds(np.array([64]))[0] < 3.0


def test_rows_beyond_a_point_that_is_tracked_stay_as_dear_as_they_were() -> None:
    curve = StepCurve([1, 8, 12, 64], [1.0, 2.0, 2.3, 4.0])
    added = curve.at(12) - curve.at(8)
    for _ in range(300):  # eight sequences take more than eight rows of one
        curve.track(8, 2.5)
    assert curve.at(8) == pytest.approx(2.5, rel=0.02)
    assert curve.at(12) - curve.at(8) >= added


def test_one_outlier_moves_the_curve_little() -> None:
    curve = StepCurve([1, 8, 64], [1.0, 2.0, 4.0])
    curve.track(8, 1000.0)
    assert curve.seconds(np.array([8]))[0] < 2.5


def test_nodes_that_read_long_contexts_must_promise_more() -> None:
    curve = StepCurve([1, 64], [1.0, 1.1], attention_s=1e-3)
    short, long = Offer(np.array([0.3] * 4), 10), Offer(np.array([0.3] * 4), 1000)
    assert choose_nodes(curve, [short], 1, 1) == [4]
    assert choose_nodes(curve, [long], 1, 1) == [0]


@given(
    st.lists(st.tuples(st.floats(0, 6), st.integers(0, 8), st.integers(1, 5)), min_size=1),
    st.floats(0.0, 0.3),
)
def test_those_who_leave_the_common_pass_gain_by_it(
    sequences: list[tuple[float, int, int]], slope: float
) -> None:
    curve = StepCurve([1, 64], [1.0, 1.0 + 63 * slope])
    expected = [min(e, n) if n else 0.0 for e, n, _ in sequences]
    nodes, rows = [n for _, n, _ in sequences], [r for *_, r in sequences]

    def rate(alone: set[int]) -> float:
        left = sum(r for i, r in enumerate(rows) if i not in alone)
        seconds = sum(curve.at(rows[i] + nodes[i]) for i in alone) + (curve.at(left) if left else 0)
        return (len(rows) + sum(expected[i] for i in alone)) / seconds

    chosen = choose_apart(curve, expected, nodes, rows)
    assert all(nodes[i] for i in chosen)
    assert not chosen or rate(chosen) >= MIN_GAIN * rate(set()) - 1e-9
    everyone = {i for i, count in enumerate(nodes) if count}
    assert rate(everyone) <= max(rate(chosen), MIN_GAIN * rate(set())) + 1e-9


def test_where_rows_are_free_nobody_leaves_for_a_little() -> None:
    curve = StepCurve([1, 64], [1.0, 1.0])
    assert choose_apart(curve, [0.9, 0.9], [4, 4], [1, 1]) == set()
    assert choose_apart(curve, [6.0, 0.0], [8, 0], [1, 1]) == {0}
