"""Quantised weights are served as transformers loads them, and left alone by the packing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import FAMILIES, generate
from verifier.model.model import VerificationMode
from verifier.model.packed_weight import PackedWeight

pytestmark = pytest.mark.slow


class Int8Weight(Tensor):
    """As torchao does it: a plain linear layer whose weight is a tensor of another kind."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            x, weight, *rest = args
            with torch._C.DisableTorchFunctionSubclass():
                return func(x, weight.codes.float() * weight.scales, *rest)
        return super().__torch_function__(func, types, args, kwargs or {})


class Int8Linear(nn.Module):
    """As others do it: a module of their own in the place of the linear layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scales = _quantize(linear.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.codes.float() * self.scales, self.bias)


def _quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.detach().abs().amax(1, keepdim=True) / 127
    return (weight.detach() / scales).round().to(torch.int8), scales


def by_weight(hf: PreTrainedModel) -> None:
    for layer in hf.model.layers:
        linear = layer.mlp.down_proj
        codes, scales = _quantize(linear.weight)
        weight = linear.weight.detach().as_subclass(Int8Weight)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.weight.codes, linear.weight.scales = codes, scales


def by_module(hf: PreTrainedModel) -> None:
    for layer in hf.model.layers:
        layer.mlp.down_proj = Int8Linear(layer.mlp.down_proj)


@pytest.mark.parametrize("quantize", [by_weight, by_module])
def test_quantised_layers_are_left_alone_and_the_text_is_generates(quantize: Any) -> None:
    hf, judge, dense = (FAMILIES[0].build() for _ in range(3))
    quantize(hf)
    quantize(judge)
    prompts = [[5, 9, 33, 4, 17], [8] * 12]
    answers = [generate(judge, prompt, 20, []) for prompt in prompts]
    assert answers != [generate(dense, prompt, 20, []) for prompt in prompts], "not quantised"
    model = target_model(hf, max_sequences=2, max_context=60)
    assert model.form is VerificationMode.PACKED
    for layer in hf.model.layers:
        kept = layer.mlp.down_proj
        assert isinstance(kept, Int8Linear) or isinstance(kept.weight, Int8Weight)
        assert isinstance(layer.mlp.up_proj.weight, PackedWeight)
    drafts = FakeDrafts(
        lambda i, tokens, n: path_tree(answers[i - 1][len(tokens) - len(prompts[i - 1]) :][:6])
    )
    results = run_all(make_engine(model, drafts), [make_request(p, 20) for p in prompts])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert sum(completion.num_accepted_tokens for _, completion in results) > 20
