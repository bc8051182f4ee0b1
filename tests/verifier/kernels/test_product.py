"""A row's product is right, and the same bits whatever rows and threads there are."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from verifier.kernels.product import DEPTH, OUTPUT_KINDS, TALL
from verifier.kernels.threads import kernels_only
from verifier.model.packed_weight import Product

pytestmark = pytest.mark.usefixtures("row_kernels")

KINDS = (torch.float32, torch.bfloat16, torch.float16)
MANY = 130
ROW_COUNTS = (*range(1, 41), 64, 65, 97, MANY)
# Outputs, inputs: full and cut panels, parts of a panel that are full, cut and single.
SHAPES = ((64, 64), (1, 1), (100, 33), (65, DEPTH), (192, DEPTH + 1), (63, 3 * DEPTH - 5))


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Give torch the threads back that it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weight_of(shape: tuple[int, int], kind: torch.dtype, seed: int) -> Tensor:
    torch.manual_seed(seed)
    weight = torch.randn(shape).to(kind)
    assert Product(weight).panels.dtype is kind
    return weight


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_every_number_is_the_sum_it_stands_for(
    shape: tuple[int, int], kind: torch.dtype, has_bias: bool
) -> None:
    num_outputs, num_inputs = shape
    weight = weight_of(shape, kind, seed=0)
    bias = torch.randn(num_outputs) if has_bias else None
    product = Product(weight)
    rows = torch.randn(MANY, num_inputs)
    exact = rows.double() @ weight.double().T
    size = rows.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    for count in ROW_COUNTS:
        error = (product(rows[:count], bias).double() - exact[:count]).abs()
        # Each of the sum's additions is off by half a unit in the last place at most.
        assert bool((error <= (num_inputs + 1) * 2.0**-24 * size[:count]).all()), count


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rows_bits_depend_neither_on_other_rows_nor_on_the_number_of_threads(
    shape: tuple[int, int], kind: torch.dtype
) -> None:
    num_outputs, num_inputs = shape
    product = Product(weight_of(shape, kind, seed=1))
    rows, bias = torch.randn(MANY, num_inputs), torch.randn(num_outputs)
    alone = torch.cat([product(row[None], bias) for row in rows])
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        for count in ROW_COUNTS:
            for first in {0, (MANY - count) // 2, MANY - count}:
                with kernels_only():
                    found = product(rows[first : first + count], bias)
                assert torch.equal(found, alone[first : first + count]), (count, first)


@pytest.mark.parametrize("count", [2, TALL, TALL + 1, 40])
def test_rows_that_are_no_numbers_stay_among_themselves(count: int) -> None:
    product = Product(weight_of((96, 48), torch.float32, seed=2))
    rows = torch.randn(count, 48)
    expected = product(rows)
    rows[0], rows[count // 2] = torch.nan, torch.inf
    found = product(rows)
    others = [i for i in range(count) if i not in (0, count // 2)]
    assert torch.equal(found[others], expected[others])
    assert bool(found[0].isnan().all())


@pytest.mark.parametrize("output", [getattr(torch, name) for name in OUTPUT_KINDS], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_result_of_a_short_type_is_the_float32_result_rounded_once(
    kind: torch.dtype, output: torch.dtype, has_bias: bool
) -> None:
    product = Product(weight_of((100, 33), kind, seed=3))
    bias = torch.randn(100).to(output) if has_bias else None
    for count in (0, 1, 5, TALL + 1, 33):
        rows = torch.randn(count, 33).to(output)
        found = product(rows, bias)
        assert found.dtype is output
        assert torch.equal(found, product(rows.float(), bias).to(output))


def test_a_weight_of_equal_numbers_in_another_type_gives_the_same_bits() -> None:
    torch.manual_seed(4)
    weight = torch.randint(-100, 100, (70, 90)) / 64  # exact in all three
    rows = torch.randn(17, 90)
    first, *others = (Product(weight.to(kind))(rows) for kind in KINDS)
    for other in others:
        assert torch.equal(other, first)


def test_rows_of_any_layout_are_read_and_keep_their_shape() -> None:
    weight = weight_of((40, 24), torch.float32, seed=5)
    product = Product(weight)
    for shape in [(24,), (0, 24), (3, 24), (1, 7, 24), (2, 0, 24), (2, 3, 5, 24)]:
        x = torch.randn(shape)
        torch.testing.assert_close(product(x), x @ weight.T)
    spread = torch.randn(24, 9).T
    assert torch.equal(product(spread), product(spread.contiguous()))
    assert torch.equal(product(torch.randn(9, 48)[:, ::2]).isfinite(), torch.ones(9, 40) > 0)


@pytest.mark.parametrize("num_outputs", [1, 40, 64, 96])
def test_rows_of_a_result_lie_side_by_side_however_many_there_are(num_outputs: int) -> None:
    product = Product(weight_of((num_outputs, 24), torch.float32, seed=6))
    for count in (1, 2, 9):
        assert product(torch.randn(count, 24)).is_contiguous()
