"""A packed weight stands for the dense one in all that a model does with it, at no more memory."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from verifier.kernels.product import PANELS
from verifier.kernels.vectors import LANES
from verifier.model.packed_weight import PackedWeight

pytestmark = pytest.mark.usefixtures("row_kernels")

TYPES = (torch.float32, torch.bfloat16, torch.float16)
WHOLE = PANELS * LANES  # outputs are filled up to a multiple of these
# Of bfloat16's products the dense ones are rounded more than once.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def dense_weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).to(dtype)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype is expected.dtype
    bound = CLOSE[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound * 10)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("num_outputs", [WHOLE, 2 * WHOLE, 1, 50])
def test_a_linear_layer_gives_what_it_gave(num_outputs: int, dtype: torch.dtype) -> None:
    weight = dense_weight(num_outputs, 48, dtype=dtype)
    packed = PackedWeight.pack(weight)
    bias = torch.randn(num_outputs).to(dtype)
    for shape, given in itertools.product([(48,), (3, 48), (1, 7, 48), (2, 0, 48)], [None, bias]):
        x = torch.randn(shape).to(dtype)
        assert_close(F.linear(x, packed, given), F.linear(x, weight, given))
        assert_close(x @ packed.T, x @ weight.T)
        assert_close(torch.matmul(x, packed.T), x @ weight.T)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("num_outputs", [WHOLE, 50])
def test_a_transposed_layer_gives_what_it_gave(num_outputs: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = Conv1D(num_outputs, 48).to(dtype)
    layer.bias.data.normal_()
    x = torch.randn(2, 5, 48).to(dtype)
    expected = layer(x)
    packed = PackedWeight.pack(layer.weight, is_transposed=True)
    assert packed.shape == layer.weight.shape == (48, num_outputs)
    layer._parameters["weight"] = packed  # type: ignore[assignment]
    with torch.inference_mode():
        assert_close(layer(x), expected)
        assert_close(x @ packed, x @ layer.weight.dense())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("num_rows", [WHOLE, 70])
def test_a_lookup_gives_the_very_rows(num_rows: int, dtype: torch.dtype) -> None:
    layer = nn.Embedding(num_rows, 24, padding_idx=0).to(dtype)
    ids = torch.tensor([[0, 1, num_rows - 1, 17], [16, 15, 1, 1]])
    for chosen in (ids, ids[0], ids[0, 1], ids[:, :0]):
        expected = layer(chosen)
        packed = PackedWeight.pack(layer.weight)
        assert torch.equal(F.embedding(chosen, packed, 0), expected)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_each_expert_gives_what_it_gave(dtype: torch.dtype, is_transposed: bool) -> None:
    weight = dense_weight(4, 40, 72, dtype=dtype)
    packed = PackedWeight.pack(weight, is_transposed=is_transposed)
    assert packed.shape == weight.shape
    for index in (0, 3, -1, torch.tensor(2)):
        dense, expert = weight[index], packed[index]
        assert isinstance(expert, PackedWeight)
        assert torch.equal(expert.dense(), dense)
        if is_transposed:
            x = torch.randn(6, 40).to(dtype)
            assert_close(x @ expert, x @ dense)
        else:
            x = torch.randn(6, 72).to(dtype)
            assert_close(F.linear(x, expert), F.linear(x, dense))
            assert_close(x @ expert.T, x @ dense.T)


USES: list[Any] = [
    lambda w: w + 0,
    lambda w: w.T.contiguous() + 0,
    lambda w: w.clone(),
    lambda w: w.detach() * 2,
    lambda w: w[3:5],
    lambda w: w[..., 1],
    lambda w: w.float(),
    lambda w: w.sum(0),
    lambda w: torch.cat([w, w]),
    lambda w: w.reshape(-1),
    lambda w: w.t() @ w.new_ones(w.shape[0]),
    lambda w: w @ w.new_ones(w.shape[1]),
    lambda w: torch.einsum("oi->io", w),
    lambda w: w.to(torch.float64),
]


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_anything_else_gets_the_very_weight(dtype: torch.dtype, is_transposed: bool) -> None:
    weight = dense_weight(50, 37, dtype=dtype)
    packed = PackedWeight.pack(weight, is_transposed=is_transposed)
    for number, use in enumerate(USES):
        found, expected = use(packed), use(weight)
        found = found.dense() if isinstance(found, PackedWeight) else found
        assert torch.equal(found, expected), number
        assert torch.equal(found * 2, expected * 2), number


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("shape", [(WHOLE, 48), (5, 3), (100, 33), (3, 40, 72)])
def test_the_dense_weight_comes_back_bit_for_bit(
    shape: tuple[int, ...], is_transposed: bool
) -> None:
    for dtype, made_in in itertools.product(TYPES, TYPES):
        weight = dense_weight(*shape, dtype=made_in).to(dtype)
        weight.view(-1)[:3] = torch.tensor([0.0, -0.0, 2.0**-14])
        packed = PackedWeight.pack(weight, is_transposed=is_transposed)
        assert packed.dtype is dtype
        whole = torch.int32 if dtype is torch.float32 else torch.int16
        assert torch.equal(packed.dense().contiguous().view(whole), weight.view(whole))


@pytest.mark.parametrize(
    ("made_in", "changed", "kept_in"),
    [
        (torch.bfloat16, 0.0, torch.bfloat16),
        (torch.float16, 0.0, torch.float16),
        (torch.float32, 0.0, torch.float32),
        (torch.bfloat16, 1 + 2.0**-10, torch.float16),  # one number is float16's, and all fit there
        (torch.bfloat16, 1 + 2.0**-20, torch.float32),
        (torch.float16, 1e-30, torch.float32),
        (torch.float16, torch.nan, torch.float32),
    ],
)
def test_a_weight_is_kept_in_the_shortest_type_that_holds_it_exactly(
    made_in: torch.dtype, changed: float, kept_in: torch.dtype
) -> None:
    weight = dense_weight(WHOLE, 64, dtype=made_in).float()
    if changed:
        weight[7, 9] = changed
    packed = PackedWeight.pack(weight)
    assert packed.dtype is torch.float32
    assert packed.products[0].panels.dtype is kept_in
    share = weight.itemsize // kept_in.itemsize
    assert packed.num_bytes * share == weight.nbytes, "more memory than the dense weight"


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_weight_takes_no_more_memory_than_before_but_for_what_fills_its_last_panels(
    dtype: torch.dtype,
) -> None:
    for num_outputs in (1, 63, 64, 65, 640):
        weight = dense_weight(num_outputs, 48, dtype=dtype)
        filled = -(-num_outputs // WHOLE) * WHOLE
        packed = PackedWeight.pack(weight)
        assert packed.num_bytes == filled * 48 * dtype.itemsize
        assert packed.products[0].panels.nbytes == packed.num_bytes
