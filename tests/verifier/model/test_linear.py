"""Packed products: the stock values for any number of rows, padded or not."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.models.reference import FAMILIES
from verifier.model.linear import Packing, pack_linears, packed_product

PADDINGS = (1, 2, 4)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("padded_to", PADDINGS)
def test_a_packed_product_has_the_values_and_the_shape_of_the_stock_one(
    padded_to: int, has_bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=has_bias)
    product = packed_product(linear, Packing(least_rows=padded_to))
    with torch.inference_mode():
        for shape in [(rows,) for rows in range(10)] + [(1, 3), (2, 1), (2, 3), (1, 0)]:
            x = torch.randn(*shape, 24)
            expected = F.linear(x, linear.weight, linear.bias)
            torch.testing.assert_close(product(x), expected)
        x = torch.randn(24)
        torch.testing.assert_close(product(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("padded_to", PADDINGS)
def test_a_packed_models_logits_are_the_stock_models(
    padded_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.model.linear.CLEAR_LOSS", math.inf)  # pack whatever it costs
    stock = FAMILIES[0].build()
    packed = copy.deepcopy(stock)
    packing = pack_linears(packed)
    num_linears = sum(type(module) is nn.Linear for module in packed.modules())
    assert packing.num_packed == num_linears
    packing.least_rows = padded_to
    ids = torch.tensor([[5, 9, 33, 4, 17]])
    with torch.inference_mode():
        for num_tokens in (1, 3, 5):
            expected = stock(ids[:, :num_tokens]).logits
            torch.testing.assert_close(packed(ids[:, :num_tokens]).logits, expected)
