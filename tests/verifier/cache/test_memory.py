"""Slots follow from memory: as many as fit, a clear refusal when none does."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.models.engine_runs import ids_of, make_engine, make_request, run_all
from tests.support.models.reference import FAMILIES, generate
from verifier.cache import memory as free_memory
from verifier.cache.kv_cache import KVCache, LayerShape
from verifier.cache.memory import KVMemoryError, allowed_bytes, fitting_slots, free_bytes
from verifier.config import VerifierConfig, parse_size
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form

CPU = torch.device("cpu")


@given(st.integers(1, 4), st.integers(1, 200), st.integers(1, 40), st.integers(0, 3_000_000))
def test_the_slots_fill_what_is_allowed_and_no_more(
    num_layers: int, capacity: int, wanted: int, allowed: int
) -> None:
    shapes = [LayerShape(2, 8, 4)] * num_layers
    slot = KVCache(
        shapes, num_slots=1, capacity=capacity, dtype=torch.float32, device=CPU, is_packed=True
    )
    slot_bytes = sum(storage.nbytes for storage in slot._storages)
    try:
        slots = fitting_slots(
            shapes, capacity=capacity, item_size=4, wanted=wanted, allowed=allowed
        )
    except KVMemoryError:
        assert slot_bytes > allowed
        return
    assert slots * slot_bytes <= allowed
    assert slots == wanted or (slots + 1) * slot_bytes > allowed


def test_a_refusal_says_what_would_fit() -> None:
    with pytest.raises(KVMemoryError, match=r"max_context up to 100 would fit"):
        fitting_slots(
            [LayerShape(1, 4, 4)], capacity=500, item_size=4, wanted=8, allowed=100 * 8 * 4
        )


def test_a_server_with_room_for_two_runs_two_and_lets_the_others_wait() -> None:
    hf = FAMILIES[0].build()
    model = TargetModel(hf, "small", max_context=100)
    one = TargetModel(FAMILIES[0].build(), "small", max_context=100)
    choose_form(one, one._model, num_slots=1, draft_rows=9)
    size = sum(storage.nbytes for storage in one.slots._storages)  # type: ignore[union-attr]
    choose_form(model, hf, num_slots=8, draft_rows=9, kv_memory=str(2 * size + size // 2))
    assert model.slots.num_slots == 2
    engine = make_engine(model, None)
    assert engine.kv_tokens_capacity == 200
    prompts = [[3 + i, 9, 4] for i in range(5)]
    results = run_all(engine, [make_request(p, 8) for p in prompts])
    judge = FAMILIES[0].build()
    assert [ids_of(runs) for runs, _ in results] == [generate(judge, p, 8, []) for p in prompts]
    assert engine.kv_tokens_used == 0


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
