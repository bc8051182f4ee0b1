"""Slots: compaction keeps the accepted rows in order, in every layer, and touches no other slot."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from verifier.cache.kv_cache import KVCache, LayerShape

SHAPES = [LayerShape(2, 4, 4), LayerShape(2, 4, 4), LayerShape(1, 6, 3)]


def make_cache() -> KVCache:
    cache = KVCache(
        SHAPES,
        num_slots=3,
        capacity=20,
        dtype=torch.float32,
        device=torch.device("cpu"),
        is_packed=True,
    )
    for i, layer in enumerate(cache.cache.layers):
        layer.keys.copy_(torch.arange(20)[:, None].expand_as(layer.keys) + 100 * i)
        layer.values.copy_(-layer.keys[..., :1].expand_as(layer.values))
    return cache


@given(st.sets(st.integers(1, 12)), st.integers(0, 7))
def test_commit_moves_the_accepted_rows_together(nodes: set[int], length: int) -> None:
    cache = make_cache()
    slot = cache.allocate()
    cache.commit(slot, list(range(length)))
    rows = [0, *sorted(nodes)]
    cache.commit(slot, rows)
    assert cache.length(slot) == length + len(rows)
    expected = torch.tensor([*range(length), *(length + row for row in rows)]).float()
    for i, layer in enumerate(cache.cache.layers):
        kept = layer.keys[slot, 0, : length + len(rows), 0]
        assert torch.equal(kept, expected + 100 * i)
        assert torch.equal(layer.values[slot, 0, : length + len(rows), 0], -kept)
        untouched = torch.arange(20).float() + 100 * i
        assert torch.equal(layer.keys[(slot + 1) % 3, 0, :, 0], untouched)


def test_slots_are_given_out_once_and_taken_back() -> None:
    cache = make_cache()
    slots = [cache.allocate() for _ in range(3)]
    assert sorted(slots) == [0, 1, 2]
    assert cache.num_free == 0
    cache.commit(slots[1], [0, 1])
    cache.free(slots[1])
    assert cache.allocate() == slots[1]
    assert cache.length(slots[1]) == 0
