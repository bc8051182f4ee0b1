"""Pages: nobody is given one that somebody holds, and what was used last is kept longest."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.cache.pages import Pages


@given(st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 80))
def test_pages_are_held_by_those_who_took_or_share_them(
    num_pages: int, seed: int, num_events: int
) -> None:
    rng = random.Random(seed)
    pages = Pages(num_pages)
    holders: list[int] = []  # a page for each holder
    kept: list[int] = []  # known pages without holders, oldest first
    evicted: list[int] = []
    pages.on_evict = evicted.append
    for _ in range(num_events):
        assert pages.num_held == len(set(holders))
        assert pages.num_available == num_pages - len(set(holders))
        choice = rng.randrange(4)
        if choice == 0 and pages.num_available:
            num_free = num_pages - len(set(holders)) - len(kept)
            page = pages.take()
            assert page not in holders
            assert not pages.is_known(page)
            assert evicted == ([] if num_free else [page])
            if evicted:
                assert kept.pop(0) == evicted.pop(), "not the one used longest ago"
            holders.append(page)
        elif choice == 1 and holders + kept:
            page = rng.choice(holders + kept)
            pages.hold(page)
            holders.append(page)
            kept = [other for other in kept if other != page]
        elif choice == 2 and holders:
            page = holders.pop(rng.randrange(len(holders)))
            if rng.random() < 0.5:
                pages.know(page)
            is_known = pages.is_known(page)
            pages.release(page)
            if is_known and page not in holders:
                kept.append(page)
        elif kept:
            page = rng.choice(kept)
            pages.touch(page)
            kept = [*(other for other in kept if other != page), page]
        assert all(pages.is_held(page) for page in holders)
        assert not any(pages.is_held(page) for page in kept)


def test_what_is_forgotten_is_free_and_told_to_nobody() -> None:
    pages = Pages(2)
    page = pages.take()
    pages.know(page)
    pages.release(page)
    pages.forget()
    pages.on_evict = lambda page: pytest.fail("it was kept")
    assert {pages.take(), pages.take()} == {0, 1}
