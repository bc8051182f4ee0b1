"""Weights are placed apart, on lines of their own, and let go of with the last of their chunk."""

import gc
import itertools
import mmap
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifier.kernels.memory import CHUNK, LINE, PAGE, Arena


@given(st.lists(st.integers(1, CHUNK // 4), min_size=1, max_size=9))
def test_weights_of_any_sizes_share_no_byte_and_begin_a_line(sizes: list[int]) -> None:
    arena = Arena()
    placed = [arena.empty((size,), torch.uint8) for size in sizes]
    spans = sorted((weight.data_ptr(), weight.data_ptr() + len(weight)) for weight in placed)
    assert all(start % LINE == 0 for start, _ in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_weights_of_one_chunk_lie_close_together() -> None:
    arena = Arena()
    placed = [arena.empty((size,), torch.uint8) for size in (1, 63, 64, 65, 1000)]
    for weight, following in itertools.pairwise(placed):
        gap = following.data_ptr() - weight.data_ptr() - len(weight)
        assert 0 <= gap < LINE


def test_a_weight_longer_than_a_chunk_has_its_own_and_begins_a_page() -> None:
    weight = Arena().empty((CHUNK // 4 + 3, 2), torch.bfloat16)
    assert (weight.shape, weight.dtype) == ((CHUNK // 4 + 3, 2), torch.bfloat16)
    assert weight.data_ptr() % PAGE == 0
    weight.fill_(1.5)  # all of it is there
    assert float(weight[-1, -1]) == 1.5


def test_a_system_without_large_pages_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 10_000)  # which no system knows
    weight = Arena().empty((100,), torch.float32)
    weight.fill_(2.0)
    assert float(weight.sum()) == 200.0


def test_a_chunk_goes_with_its_last_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def noted(*args: Any, **options: Any) -> Any:
        memory = mapped(*args, **options)
        made.append(weakref.ref(memory))
        return memory

    mapped = mmap.mmap
    monkeypatch.setattr(mmap, "mmap", noted)
    arena = Arena()
    first, second = (arena.empty((CHUNK // 2,), torch.uint8) for _ in range(2))
    third = arena.empty((CHUNK,), torch.uint8)  # from another chunk
    del first
    gc.collect()
    assert [chunk() is None for chunk in made] == [False, False]
    del second
    gc.collect()
    assert [chunk() is None for chunk in made] == [True, False]
    del third
