"""The cache follows from memory: as many pages as fit, a clear refusal when they are too few."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import LlamaConfig

from tests.support.models.engine_runs import ids_of, make_engine, make_request, run_all
from tests.support.models.reference import FAMILIES, Family, generate
from verifier.cache import memory as free_memory
from verifier.cache.kv_cache import KVCache
from verifier.cache.memory import (
    MIN_CAPACITY,
    KVMemoryError,
    allowed_bytes,
    fitting_size,
    free_bytes,
)
from verifier.cache.pages import PAGE, num_pages_of
from verifier.cache.slot_layers import LayerShape
from verifier.config import VerifierConfig, parse_size
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form, own_context

CPU = torch.device("cpu")


@given(
    st.integers(1, 4),
    st.integers(1, 500),
    st.integers(1, 40),
    st.integers(0, 3_000_000),
    st.integers(0, 5000),
    st.booleans(),
)
def test_the_cache_fills_what_is_allowed_and_no_more(
    num_layers: int, capacity: int, num_slots: int, allowed: int, state_bytes: int, may_shrink: bool
) -> None:
    shapes = [LayerShape(2, 8, 4)] * num_layers
    try:
        size = fitting_size(
            shapes,
            num_slots=num_slots,
            capacity=capacity,
            item_size=4,
            allowed=allowed,
            state_bytes=state_bytes,
            may_shrink=may_shrink,
        )
    except KVMemoryError:
        longest = min(capacity, MIN_CAPACITY) if may_shrink else capacity
        assert num_bytes(shapes, num_pages_of(longest)) + state_bytes > allowed
        return
    used = num_bytes(shapes, size.num_pages) + size.num_slots * state_bytes
    assert used <= allowed
    assert size.capacity <= capacity
    assert size.capacity == capacity or may_shrink
    assert size.num_pages >= num_pages_of(size.capacity), "no room for one sequence"
    assert size.num_pages <= num_slots * num_pages_of(size.capacity), "more than can be used"
    page = num_bytes(shapes, 1) - num_bytes(shapes, 0)
    if size.num_slots < num_slots:
        assert used + page + state_bytes > allowed
    if size.num_pages < size.num_slots * num_pages_of(size.capacity):
        assert used + page > allowed


def num_bytes(shapes: list[LayerShape], num_pages: int) -> int:
    """What a cache takes."""
    cache = KVCache(
        shapes,
        num_slots=1,
        capacity=PAGE * (num_pages + 1),
        dtype=torch.float32,
        device=CPU,
        is_packed=True,
    )
    return sum(storage.nbytes for storage in cache._storages) * num_pages // (num_pages + 1)


def test_a_refusal_says_what_would_fit() -> None:
    page_bytes = PAGE * 8 * 4
    with pytest.raises(KVMemoryError, match=rf"max_context up to {4 * PAGE} would fit"):
        fitting_size(
            [LayerShape(1, 4, 4)], num_slots=8, capacity=500, item_size=4, allowed=4 * page_bytes
        )


def small_model(max_context: int, **options: Any) -> TargetModel:
    hf = FAMILIES[0].build()
    model = TargetModel(hf, "small", max_context=max_context)
    choose_form(model, hf, **{"num_slots": 8, "draft_rows": 9, **options})
    return model


def test_a_server_with_few_pages_lets_those_wait_that_do_not_fit() -> None:
    one = small_model(2 * PAGE - 9, num_slots=1)
    assert isinstance(one.slots, KVCache)
    size = sum(storage.nbytes for storage in one.slots._storages)
    allowed = str(4 * size // one.slots.pages.num_pages)
    model = small_model(2 * PAGE - 9, kv_memory=allowed)
    assert isinstance(model.slots, KVCache)
    assert (model.slots.num_slots, model.slots.pages.num_pages) == (3, 4)
    engine = make_engine(model, None)
    prompts = [[3 + i, 9, 4] for i in range(5)]
    results = run_all(engine, [make_request(p, 70) for p in prompts])
    judge = FAMILIES[0].build()
    assert [ids_of(runs) for runs, _ in results] == [generate(judge, p, 70, []) for p in prompts]
    assert model.slots.pages.num_held == 0


def test_the_context_is_what_the_model_was_made_for_or_what_memory_has_room_for() -> None:
    own = 3000
    long = Family("llama", {**FAMILIES[0].shape, "max_position_embeddings": own})
    found = []
    for kv_memory in ("1GiB", "750K"):
        hf = long.build()
        assert own_context(hf.config) == own
        model = TargetModel(hf, "small", max_context=own)
        choose_form(model, hf, num_slots=2, draft_rows=9, kv_memory=kv_memory, may_shrink=True)
        assert isinstance(model.slots, KVCache)
        assert model.slots.pages.num_pages * PAGE >= model.max_context + 9
        found.append(model.max_context)
    assert found[0] == own > found[1] >= MIN_CAPACITY - 9


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_the_context_ends_where_rotary_frequencies_would_depend_on_it(kind: str) -> None:
    config = LlamaConfig(max_position_embeddings=1000)
    rope = {"rope_type": kind, "original_max_position_embeddings": 300}
    config.rope_parameters = {**config.rope_parameters, **rope}
    assert own_context(config) == 300


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("3K", 3072), ("1.5GiB", 3 << 29), ("2 MB", 2 << 20)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size == allowed_bytes(text, CPU)


@pytest.mark.parametrize("text", ["", "0", "much", "-3G", "8 GiG", "auto "])
def test_a_bad_size_is_refused_by_name(text: str) -> None:
    settings = {"model": "m", "kv_memory": text}
    with pytest.raises(ValidationError, match=r"kv_memory\n.*expected a size such as 8GiB"):
        VerifierConfig(**settings)  # type: ignore[arg-type]


def test_auto_takes_a_share_of_what_is_free() -> None:
    assert 0 < allowed_bytes("auto", CPU) < free_bytes(CPU)


def test_a_control_group_limits_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    unlimited = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_bytes(CPU) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == pytest.approx(unlimited, rel=0.5)
