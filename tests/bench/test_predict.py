"""Predictions follow the roofline, never promise less than plain decoding, and fall with load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.replay.predict import BATCHES, predict, predict_all
from bench.roofline import (
    BANDWIDTH_SHARE,
    CARDS,
    HOP_S,
    ITEM_BYTES,
    SHAPES,
    Card,
    Shape,
    fits,
    step_s,
)

POINTS = [(1.0, 1.6), (4.0, 2.4), (16.0, 4.0)]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_one_row_takes_as_long_as_reading_the_weights(card: Card) -> None:
    shape = SHAPES[1]
    seconds = step_s(card, shape, rows=1, num_sequences=1, context=0, graphs=True)
    reading_s = ITEM_BYTES * shape.parameters / (BANDWIDTH_SHARE * card.bandwidth)
    assert reading_s < seconds < 1.2 * reading_s


@given(st.sampled_from(CARDS), st.sampled_from(SHAPES), st.booleans(), st.integers(1, 64))
def test_more_rows_and_longer_contexts_never_take_less(
    card: Card, shape: Shape, graphs: bool, rows: int
) -> None:
    def seconds(rows: int, context: int) -> float:
        return step_s(card, shape, rows=rows, num_sequences=1, context=context, graphs=graphs)

    assert seconds(rows, 100) <= seconds(rows + 1, 100) <= seconds(rows + 1, 5000)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_speed_ups_shrink_under_load_and_never_below_one(card: Card, graphs: bool) -> None:
    ups = [
        predict(card, SHAPES[1], "w", POINTS, streams=n, graphs=graphs).speed_up
        for n in (*BATCHES, 1024)
    ]
    assert all(1.0 <= up <= 4.0 for up in ups)
    assert ups[-1] < 0.75 * ups[0]


def test_the_cut_predicted_is_the_best_of_those_measured() -> None:
    card, shape = CARDS[1], SHAPES[1]
    chosen = predict(card, shape, "w", POINTS, streams=64, graphs=True)

    def rate(nodes: float, tokens: float) -> float:
        rows = 64 * (1 + nodes)
        seconds = step_s(card, shape, rows=rows, num_sequences=64, context=1000, graphs=True)
        return tokens / (seconds + (HOP_S if nodes else 0))

    assert rate(chosen.nodes, chosen.tokens_per_step) == max(
        rate(*option) for option in [(0.0, 1.0), *POINTS]
    )


def test_what_does_not_fit_is_not_predicted() -> None:
    predictions = predict_all({"w": POINTS})
    assert not any(p.card == "L40S" and p.model == "32B" for p in predictions)
    assert fits(CARDS[0], SHAPES[1], 8, 1000)
    assert all(p.speed_up >= 1 for p in predictions)
