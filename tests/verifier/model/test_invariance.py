"""The check at load: a model whose rows mind their company is found out, and only such a one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, STATEFUL, Family, family
from verifier.model import invariance
from verifier.model.model import TargetModel, VerificationMode

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("row_kernels")]

# Convolutions round the same in every pass, and those served plain have passes of their own.
BITWISE_STATES = ("lfm2", "lfm2_moe", "lfm3", "jamba", "mamba")

Change = Callable[[Tensor], Tensor]


def checked(each: Family, change: Change | None = None) -> TargetModel:
    """The model set up as for serving, its first layer's output changed so."""
    hf = each.build()
    if change is not None:
        change_output(hf.model.layers[0].mlp, change)
    return target_model(hf, max_sequences=2, max_context=128)


def has_scan(each: Family) -> bool:
    """Whether it scans its states in chunks, which round otherwise than one token does."""
    return each in STATEFUL and each.model_type not in BITWISE_STATES


def change_output(module: nn.Module, change: Change) -> None:
    stock = module.forward

    def forward(*arguments: Any, **inputs: Any) -> Any:
        return change(stock(*arguments, **inputs))

    module.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("each", FAMILIES, ids=lambda each: each.model_type)
def test_every_family_whose_attention_is_ours_is_bitwise(each: Family) -> None:
    model = checked(each)
    if model.form is VerificationMode.SINGLE or has_scan(each):
        assert each.model_type == "falcon" or each in STATEFUL
        assert not model.bitwise
        assert model.not_bitwise_reason.startswith("a row's bits depend on")
    else:
        assert model.not_bitwise_reason == ""
        assert model.bitwise


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch's threads as on a server; given back after the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "gpt_oss", "gpt2"])
def test_a_model_is_bitwise_in_any_type_and_with_any_threads(name: str, dtype: torch.dtype) -> None:
    model = target_model(family(name).build().to(dtype), max_sequences=2, max_context=128)
    assert model.form is VerificationMode.PACKED
    assert model.bitwise, model.not_bitwise_reason


def a_little_more(x: Tensor, amount: float) -> Tensor:
    """Within the rounding that the probe allows."""
    return x * (1 + amount * 2.0**-22)


CHANGES: list[tuple[str, Change]] = [
    # A prompt's rows are many in a pass, or few.
    ("the runs in which its prompt was read", lambda x: a_little_more(x, x.shape[1] >= 30)),
    # 17 rows beside the row that is decoded.
    ("the other rows of its pass", lambda x: a_little_more(x, x.shape[1] == 18)),
    # 1 row and 3 times 3 nodes.
    ("what is drafted beside it", lambda x: a_little_more(x, x.shape[1] == 10)),
]


@pytest.mark.parametrize(("what", "change"), CHANGES, ids=lambda value: str(value))
def test_what_a_row_depends_on_is_named(what: str, change: Change) -> None:
    model = checked(family("llama"), change)
    assert model.form is VerificationMode.PACKED, "a change too large for the probe"
    assert not model.bitwise
    assert model.not_bitwise_reason == f"a row's bits depend on {what}"


def test_copies_that_are_not_exact_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = TargetModel.forward

    def forward(model: TargetModel, segments: list[Any]) -> Tensor:
        found = stock(model, segments)
        is_copied = segments[0].kv_len == invariance.PROMPT_LEN + invariance.NUM_ROWS - 1
        return a_little_more(found, is_copied and segments[0].slot == 1 and len(segments) == 1)

    monkeypatch.setattr(TargetModel, "forward", forward)
    model = checked(family("llama"))
    assert not model.bitwise
    assert (
        model.not_bitwise_reason == "a row's bits depend on whether its prompt's rows were copied"
    )


def test_the_check_gives_back_its_slots_and_leaves_those_that_were_asked_for() -> None:
    model = checked(family("llama"))
    assert model.slots.num_free == model.slots.num_slots == 2
    assert all(model.slots.length(slot) == 0 for slot in range(2))


def test_a_short_context_is_checked_too() -> None:
    model = target_model(family("llama").build(), max_sequences=1, max_context=24)
    assert model.bitwise, model.not_bitwise_reason
