"""A packed model says what it said, holds its weights once, and keeps what a quantizer made."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.support.models.reference import FAMILIES, Family, family
from verifier.model.packed_weight import PackedWeight, Product
from verifier.model.packing import KernelError, pack_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("row_kernels")]

IDS = torch.tensor([[5, 9, 33, 4, 17, 60, 2, 2, 11, 48, 7]])


def logits(model: PreTrainedModel, ids: Tensor = IDS) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(ids, use_cache=False).logits
    return found


def dense_matrices(model: nn.Module) -> list[str]:
    """Weights that multiply rows or are looked up, and are not packed."""
    return [
        name
        for name, weight in model.named_parameters()
        if type(weight) is nn.Parameter and weight.dim() == 2
    ]


@pytest.mark.parametrize("each", FAMILIES, ids=lambda each: each.model_type)
def test_a_packed_models_logits_are_the_stock_models(each: Family) -> None:
    model = each.build()
    expected = [logits(model, IDS[:, :n]) for n in (1, 5, 11)]
    assert pack_weights(model) > 0
    for n, stock in zip((1, 5, 11), expected, strict=True):
        error = (logits(model, IDS[:, :n]) - stock).abs().max() / stock.abs().max()
        # Recurrent layers sum in another order; a wrong weight is off by tenths.
        assert float(error) < 1e-4, n


@pytest.mark.parametrize("each", FAMILIES, ids=lambda each: each.model_type)
def test_no_linear_layer_lookup_or_expert_keeps_a_dense_weight(each: Family) -> None:
    model = each.build()
    kinds = (nn.Linear, nn.Embedding, Conv1D)
    places = [m for m in model.modules() if isinstance(m, kinds)]
    num_experts = sum("gate_up_proj" in m._parameters for m in model.modules())
    distinct = {id(m.weight) for m in places}
    num_packed = pack_weights(model)
    assert all(isinstance(m.weight, PackedWeight) for m in places)
    assert num_packed >= len(distinct) + 2 * num_experts
    # A router of a mixture, biases of experts, a state's decay: none of them a layer's weight.
    left = dense_matrices(model)
    assert not [name for name in left if name.endswith("proj.weight")]
    if not num_experts and each.model_type != "mamba":
        assert left == []


def test_a_tied_weight_is_packed_once() -> None:
    shape = family("llama").shape | {"tie_word_embeddings": True}
    model = Family("llama", shape).build()
    expected = logits(model)
    num_tied = pack_weights(model)
    assert model.lm_head.weight.products is model.model.embed_tokens.weight.products
    torch.testing.assert_close(logits(model), expected)
    untied = Family("llama", shape | {"tie_word_embeddings": False}).build()
    assert pack_weights(untied) == num_tied + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dense_weights_go_and_the_packed_ones_take_no_more_memory(dtype: torch.dtype) -> None:
    model = family("llama").build().to(torch.bfloat16).to(dtype)
    weights = {id(w): w for w in model.parameters() if w.dim() == 2}
    num_bytes = sum(-(-len(w) // 64) * 64 * w.shape[1] * w.itemsize for w in weights.values())
    gone = [weakref.ref(w) for w in weights.values()]
    weights.clear()
    pack_weights(model)
    gc.collect()
    assert not any(ref() is not None for ref in gone)
    packed = {id(w): w for w in model.parameters() if isinstance(w, PackedWeight)}
    # Numbers that bfloat16 holds take its room.
    share = dtype.itemsize // 2
    assert sum(w.num_bytes for w in packed.values()) * share == num_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_model_in_a_short_type_stays_in_it(name: str, dtype: torch.dtype) -> None:
    model = family(name).build().to(dtype)
    expected = logits(model)
    pack_weights(model)
    found = logits(model)
    assert found.dtype is dtype
    assert next(model.parameters()).dtype is dtype
    torch.testing.assert_close(found, expected, rtol=0.06, atol=0.06 * float(expected.abs().max()))


def test_packing_twice_packs_nothing_more() -> None:
    model = family("llama").build()
    assert pack_weights(model) > 0
    assert pack_weights(model) == 0


def test_weights_of_another_type_or_kind_stay() -> None:
    model = family("llama").build()
    layer = model.model.layers[0].mlp
    layer.down_proj.double()
    codes = nn.Parameter(torch.zeros(64, 96, dtype=torch.int8), requires_grad=False)
    layer.up_proj._parameters["weight"] = codes
    num_others = len({id(w) for w in model.parameters() if w.dim() == 2}) - 2
    assert pack_weights(model) == num_others
    assert type(layer.down_proj.weight) is nn.Parameter
    assert layer.up_proj.weight is codes


def test_a_kernel_that_computes_wrong_sums_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Product.__call__

    def wrong(product: Product, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = right(product, x, bias)
        if len(x) == 6:  # as one inner loop of several may
            out[0] = 0.0
        return out

    monkeypatch.setattr(Product, "__call__", wrong)
    with pytest.raises(KernelError, match=r"the product of 6 rows .* is wrong"):
        pack_weights(family("llama").build())
