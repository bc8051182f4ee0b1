"""How far a replica says it is behind, against a log that counts for itself."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.log.protocol import LogEnd, Page
from drafter.memory.status import Lag

PAGE = 4
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, PAGE), st.integers(0, 9)), max_size=30)


def page_of(cursor: int, first: int, last: int) -> Page:
    """Read entries number `first` to `last` from the cursor's own on, as the log would."""
    start = max(first, cursor, 1)
    numbers = range(start, min(last + 1, start + PAGE))
    end = LogEnd((last, 0), last, last - first + 1)
    return Page([((number, 0), b"") for number in numbers], None, False, end)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), STEPS)
def test_entries_behind_are_exact_once_the_end_was_seen(
    before: int, steps: list[tuple[int, int, int]]
) -> None:
    """Started at a snapshot; then entries come, some are applied, what is applied is trimmed."""
    lag, cursor, last, first, seen_end = Lag(0.0), before, before, 1, False
    for added, applied, trimmed in steps:
        last += added
        page = page_of(cursor, first, last)
        fresh = [number for (number, _), _ in page.entries if number > cursor]
        lag.saw(page, len(fresh), 0.0)
        seen_end = seen_end or len(fresh) == last - cursor
        assert lag.entries >= len(fresh)
        if seen_end:
            assert lag.entries == last - cursor
        for _ in fresh[:applied]:
            cursor += 1
            lag.applied()
        if seen_end:
            assert lag.entries == last - cursor
        first = max(1, min(first + trimmed, cursor))


def test_seconds_count_while_behind_and_while_nothing_is_heard() -> None:
    lag = Lag(100.0)
    assert lag.seconds(103.0) == 3.0
    lag.saw(page_of(5, 1, 5), 0, 104.0)
    assert lag.seconds(105.0) == 0.0
    lag.saw(page_of(5, 1, 7), 2, 105.0)
    assert lag.seconds(105.5) == 1.5
    lag.applied()
    lag.applied()
    assert lag.seconds(105.9) == 0.0
    assert lag.seconds(114.0) == 10.0


def test_server_that_does_not_say_gives_what_a_read_shows() -> None:
    lag = Lag(0.0)
    entries = [((number, 0), b"") for number in range(5, 9)]
    lag.saw(Page(entries, None, False, LogEnd()), 3, 1.0)
    assert lag.entries == 3
