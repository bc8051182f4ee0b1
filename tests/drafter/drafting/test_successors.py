"""The successor table grows with use; nothing else about it can be told from a plain dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.drafting.sessions import DraftSessions
from drafter.drafting.successors import MAX_ROWS, MIN_ROWS, Successors, places
from drafter.kernels.mixing import SUCCESSOR_RANKS

TOKENS = st.lists(st.integers(0, 3000), min_size=1, max_size=40)


class Reference:
    """One row for each place of a table of the largest size: the rows that a small one may lose
    are only those that fall on a place taken."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}

    def keep(self, token: int, following: list[int]) -> None:
        self.rows[token] = following


@settings(max_examples=30)
@given(st.lists(TOKENS, min_size=1, max_size=30))
def test_rows_come_back_as_the_latest_that_was_said(runs: list[list[int]]) -> None:
    sessions, reference = DraftSessions(), Reference()
    sessions.open(1, space="a", token_ids=[5000])
    last = 5000
    for number, run in enumerate(runs):
        rows = [
            [(token + rank + number) % 4000 for rank in range(SUCCESSOR_RANKS)] for token in run
        ]
        sessions.observe(1, run, successors=rows)
        for token, row in zip([last, *run], rows, strict=False):
            reference.keep(token, row)
        last = run[-1]
    table = sessions.memory("a").successors
    held = {int(row[0]): row[1:].tolist() for row in table.rows()}
    assert all(reference.rows[token] == row for token, row in held.items())
    lost = len(reference.rows) - len(held)
    assert lost <= len(reference.rows) / 6 + 1
    spots = places(table.rows()[:, 0], int(table.table[0]))
    stored = table.table[1:].reshape(-1, 1 + SUCCESSOR_RANKS)[spots]
    assert np.array_equal(stored, table.rows())


def test_it_takes_nothing_unused_little_for_few_and_never_more_than_before() -> None:
    table = Successors()
    assert table.num_bytes == 0
    table.reserve(10)
    assert table.num_bytes == 4 * (1 + MIN_ROWS * (1 + SUCCESSOR_RANKS))
    for _ in range(100):
        table.table[1 :: 1 + SUCCESSOR_RANKS] = places_filled(table)
        table.reserve(4096)
    assert table.num_bytes == 4 * (1 + MAX_ROWS * (1 + SUCCESSOR_RANKS))


def places_filled(table: Successors) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return a token for each place of the table."""
    size = int(table.table[0])
    tokens = np.arange(16 * size, dtype=np.int32)
    column = np.full(size, -1, np.int32)
    column[places(tokens, size)] = tokens
    return column
