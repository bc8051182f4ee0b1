"""Rows in pages: accepted ones are moved together, and sharing copies as little as it can."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verifier.cache.kv_cache import KVCache, places_of
from verifier.cache.pages import PAGE
from verifier.cache.slot_layers import LayerShape

SHAPES = [LayerShape(2, 4, 4), LayerShape(2, 4, 4), LayerShape(1, 6, 3)]
CAPACITY = 3 * PAGE


def make_cache(num_pages: int | None = None) -> KVCache:
    cache = KVCache(
        SHAPES,
        num_slots=3,
        capacity=CAPACITY,
        num_pages=num_pages,
        dtype=torch.float32,
        device=torch.device("cpu"),
        is_packed=True,
    )
    for i, layer in enumerate(cache.cache.layers):
        numbers = torch.arange(layer.keys.shape[1]).float()[:, None] + 1000 * i
        layer.keys.copy_(numbers.expand_as(layer.keys))
        layer.values.copy_(-numbers.expand_as(layer.values))
    return cache


def filled(cache: KVCache, slot: int, length: int) -> None:
    """Commit so many rows, whose numbers are their indices."""
    cache.reserve(slot, length)
    places = torch.from_numpy(places_of(cache.table(slot), torch.arange(length).numpy()))
    for i, layer in enumerate(cache.cache.layers):
        numbers = torch.arange(length).float()[:, None] + 1000 * i
        layer.keys[:, places] = numbers
        layer.values[:, places] = -numbers
    cache.commit(slot, list(range(length)))


def rows_of(cache: KVCache, slot: int) -> list[Tensor]:
    """What each layer's keys hold for a slot when a pass begins; values hold the same, negated."""
    cache.make_moves()
    places = torch.from_numpy(
        places_of(cache.table(slot), torch.arange(cache.length(slot)).numpy())
    )
    found = []
    for i, layer in enumerate(cache.cache.layers):
        kept = layer.keys[0, places, 0]
        assert torch.equal(layer.values[-1, places, -1], -kept)
        found.append(kept - 1000 * i)
    return found


@given(st.sets(st.integers(1, 80)), st.integers(0, 80))
def test_commit_moves_the_accepted_rows_together(nodes: set[int], length: int) -> None:
    cache = make_cache()
    other, slot = cache.allocate(), cache.allocate()
    filled(cache, other, 70)
    filled(cache, slot, length + 81)  # a draft is written behind what is committed
    cache._lengths[slot] = length
    rows = [0, *sorted(nodes)]
    cache.commit(slot, rows)
    assert cache.length(slot) == length + len(rows)
    expected = torch.tensor([*range(length), *(length + row for row in rows)]).float()
    for kept in rows_of(cache, slot):
        assert torch.equal(kept, expected)
    for kept in rows_of(cache, other):
        assert torch.equal(kept, torch.arange(70).float())


@given(st.sets(st.integers(1, 40)), st.integers(0, 60))
def test_rows_that_have_yet_to_move_are_shared_as_they_will_be(
    nodes: set[int], length: int
) -> None:
    cache = make_cache()
    source, slot, other = (cache.allocate() for _ in range(3))
    filled(cache, source, length + 41)
    filled(cache, other, 50)
    cache._lengths[source] = length
    cache._lengths[other] = 0
    cache.commit(other, [0, 7])
    cache.commit(source, [0, *sorted(nodes)])
    total = cache.length(source)
    cache.share(slot, cache.table(source)[: -(-total // PAGE)], total)
    cache.free(source)
    expected = torch.tensor([*range(length + 1), *(length + node for node in sorted(nodes))])
    for kept in rows_of(cache, slot):
        assert torch.equal(kept, expected.float())
    for kept in rows_of(cache, other):
        assert torch.equal(kept, torch.tensor([0.0, 7.0]))


@given(st.integers(1, 150), st.integers(0, 150), st.integers(0, 150))
def test_a_slot_begins_with_anothers_rows_and_shares_all_full_pages(
    length: int, wanted: int, before: int
) -> None:
    cache = make_cache()
    source, slot = cache.allocate(), cache.allocate()
    filled(cache, source, length)
    filled(cache, slot, before)
    wanted = min(wanted, length)
    cache.share(slot, cache.table(source)[: -(-wanted // PAGE)], wanted)
    assert cache.length(slot) == wanted
    for kept in rows_of(cache, slot):
        assert torch.equal(kept, torch.arange(wanted).float())
    shared = set(cache.table(source)) & set(cache.table(slot))
    assert len(shared) == wanted // PAGE
    assert len(cache.table(slot)) >= -(-before // PAGE), "it had more pages before"
    cache.free(source)
    for kept in rows_of(cache, slot):
        assert torch.equal(kept, torch.arange(wanted).float())
    cache.free(slot)
    assert cache.pages.num_held == 0


def test_where_no_page_is_left_the_full_ones_are_shared() -> None:
    cache = make_cache(num_pages=2)
    source, slot = cache.allocate(), cache.allocate()
    filled(cache, source, PAGE + 5)
    cache.share(slot, cache.table(source), PAGE + 5)
    assert (cache.length(slot), cache.table(slot)) == (PAGE, cache.table(source)[:1])
    assert not cache.reserve(slot, PAGE + 1)


def test_slots_are_given_out_once_and_taken_back() -> None:
    cache = make_cache()
    slots = [cache.allocate() for _ in range(3)]
    assert sorted(slots) == [0, 1, 2]
    assert cache.num_free == 0
    filled(cache, slots[1], 2)
    cache.free(slots[1])
    assert cache.allocate() == slots[1]
    assert (cache.length(slots[1]), cache.table(slots[1])) == (0, [])
