"""Vectors compute what their names say, as exactly as float32 lets them."""

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from verifier.kernels import vectors
from verifier.kernels.vectors import BFLOAT16, FLOAT16, FLOAT32, LANES, TILE, load

Floats = NDArray[np.float32]
INF, NAN = np.float32(np.inf), np.float32(np.nan)


@numba.njit
def _exp(a: int, b: int, out: int) -> None:
    found = vectors.exp_difference(load(FLOAT32, a), load(FLOAT32, b))
    vectors.store(out, found)


@numba.njit
def _tanh(a: int, out: int) -> None:
    vectors.store(out, vectors.tanh(load(FLOAT32, a)))


@numba.njit
def _narrow(a: int, brain: int, half: int) -> None:
    vectors.store_as(BFLOAT16, brain, load(FLOAT32, a))
    vectors.store_as(FLOAT16, half, load(FLOAT32, a))


@numba.njit
def _widen(brain: int, half: int, from_brain: int, from_half: int) -> None:
    vectors.store(from_brain, load(BFLOAT16, brain))
    vectors.store(from_half, load(FLOAT16, half))


@numba.njit
def _by_line(a: int, total: int, largest: int) -> None:
    vectors.store(total, vectors.total_by_line(load(FLOAT32, a)))
    vectors.store(largest, vectors.largest_by_line(load(FLOAT32, a)))


@numba.njit
def _totals(a: int, out: int) -> None:
    size = 4 * LANES
    vectors.store_totals(
        out,
        load(FLOAT32, a),
        load(FLOAT32, a + size),
        load(FLOAT32, a + 2 * size),
        load(FLOAT32, a + 3 * size),
    )


@numba.njit
def _choose(a: int, b: int, finite: int, maximum: int) -> None:
    vectors.store(finite, vectors.choose_finite(load(FLOAT32, a), load(FLOAT32, b)))
    vectors.store(maximum, vectors.maximum(load(FLOAT32, a), load(FLOAT32, b)))


def address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)


def exp_difference(a: Floats, b: Floats) -> Floats:
    """Of any number of pairs, LANES at a time."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float32), np.asarray(b, np.float32))
    pairs = np.zeros((3, -(-a.size // LANES) * LANES), np.float32)
    pairs[0, : a.size], pairs[1, : a.size] = a.ravel(), b.ravel()
    for i in range(0, pairs.shape[1], LANES):
        _exp(*(address(row[i:]) for row in pairs))
    return pairs[2, : a.size].reshape(a.shape)


def tanh(x: Floats) -> Floats:
    values = np.zeros((2, -(-x.size // LANES) * LANES), np.float32)
    values[0, : x.size] = x
    for i in range(0, values.shape[1], LANES):
        _tanh(address(values[0, i:]), address(values[1, i:]))
    return values[1, : x.size]


def test_an_exponential_is_right_to_a_unit_or_two_in_the_last_place() -> None:
    rng = np.random.default_rng(0)
    spread = (rng.uniform(-87, 0, 10_000), -(2.0 ** -rng.uniform(0, 60, 1_000)), [-86.99999, 0])
    lower = np.concatenate(spread).astype(np.float32)
    for peak in (np.float32(0), rng.normal(0, 5, lower.size).astype(np.float32)):
        scores = peak + lower
        differences = scores - peak
        kept = differences >= vectors.LOWEST
        exact = np.exp(differences[kept].astype(np.float64))
        assert np.max(np.abs(exp_difference(scores, peak)[kept] / exact - 1)) < 2e-7


def test_nothing_is_added_by_what_is_masked_far_below_or_no_number() -> None:
    masked = [(-INF, 0), (-INF, -INF), (NAN, 0), (0, NAN)]
    for a, b in [*masked, (-87.01, 0), (-1e30, 1e30), (-3e38, 0)]:
        found = exp_difference(np.full(LANES, a), np.float32(b))
        assert found.tobytes() == bytes(found.nbytes), f"{a} - {b}: not plus zero"


def test_what_equals_the_peak_weighs_exactly_one() -> None:
    peaks = np.random.default_rng(1).normal(0, 50, 1000).astype(np.float32)
    assert (exp_difference(peaks, peaks) == 1).all()


def test_the_hyperbolic_tangent_is_right_odd_and_reaches_its_ends() -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), [1e-6, 1e-3, 50, 1e30, np.inf, 0]])
    x = x.astype(np.float32)
    found = tanh(x)
    assert np.max(np.abs(found - np.tanh(x.astype(np.float64)))) < 2e-7
    assert (tanh(-x) == -found).all()
    assert found[-2] == 1
    assert tanh(-x)[-2] == -1


def hard_to_round() -> Floats:
    """Any bits, and every tie of both short types."""
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, 20_000, np.uint32)
    exponents = rng.integers(0, 2**16, 4_000, np.uint32) << 16
    half = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = half.float().numpy()
    ties = (halves[:-1].astype(np.float64) + halves[1:]) / 2
    ends = [65504, 65519.996, 65520, 3.3961775e38, 3.4028235e38, 6e-8, 2.98e-8]
    special = np.array([0.0, -0.0, INF, -INF, NAN, *ends], np.float32)
    lows = (0x8000, 0x18000, 0x7FFF, 0x8001)
    chosen = [bits, *(exponents | low for low in lows)]
    floats = [each.view(np.float32) for each in chosen]
    found = np.concatenate([*floats, halves, ties.astype(np.float32), special])
    return np.resize(found, -(-found.size // LANES) * LANES)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_short_numbers_are_rounded_as_torch_rounds_them_and_read_back_exactly() -> None:
    values = hard_to_round()
    brain, half = np.zeros(values.size, np.uint16), np.zeros(values.size, np.uint16)
    wide = np.zeros((2, values.size), np.float32)
    for i in range(0, values.size, LANES):
        _narrow(*(address(array[i:]) for array in (values, brain, half)))
        _widen(*(address(array[i:]) for array in (brain, half, wide[0], wide[1])))
    for found, read, dtype in ((brain, wide[0], torch.bfloat16), (half, wide[1], torch.float16)):
        expected = torch.from_numpy(values).to(dtype)
        same = torch.from_numpy(found.view(np.int16)) == expected.view(torch.int16)
        is_number = ~torch.isnan(expected)
        assert bool(same[is_number].all())
        ours = torch.from_numpy(found.view(np.int16)).view(dtype)
        assert bool(torch.isnan(ours[~is_number]).all()), "NaN became a number"
        assert torch.equal(torch.from_numpy(read)[is_number], expected.float()[is_number])
        assert bool(torch.isnan(torch.from_numpy(read)[~is_number]).all())


def test_a_line_has_its_own_total_and_largest_number_in_all_its_lanes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        x = (rng.normal(size=LANES) * 10 ** rng.uniform(-3, 3, LANES)).astype(np.float32)
        found = np.zeros((2, LANES), np.float32)
        _by_line(address(x), address(found[0]), address(found[1]))
        lines = x.reshape(-1, TILE)
        size = np.abs(lines).sum(0)
        assert (np.abs(found[0, :TILE] - lines.astype(np.float64).sum(0)) <= 3e-7 * size).all()
        assert (found[1, :TILE] == lines.max(0)).all()
        for each in found:
            assert (each.reshape(-1, TILE) == each[:TILE]).all(), "lanes of a line differ"


def test_a_lines_total_is_the_same_bits_in_any_line() -> None:
    rng = np.random.default_rng(4)
    column = rng.normal(size=LANES // TILE).astype(np.float32)
    totals = set()
    for line in range(TILE):
        x = rng.normal(size=LANES).astype(np.float32)
        x[line::TILE] = column
        found = np.zeros((2, LANES), np.float32)
        _by_line(address(x), address(found[0]), address(found[1]))
        totals |= set(found[0, line::TILE].tolist())
    assert len(totals) == 1


def test_a_vectors_total_is_the_sum_of_its_lanes_and_the_same_bits_at_any_place() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        x = rng.normal(size=(TILE, LANES)).astype(np.float32)
        found = np.zeros((TILE, TILE), np.float32)
        for turn in range(TILE):
            _totals(address(np.roll(x, turn, axis=0)), address(found[turn]))
        exact = x.astype(np.float64).sum(1)
        assert (np.abs(found[0] - exact) <= 5e-7 * np.abs(x).sum(1)).all()
        for turn in range(TILE):
            assert (np.roll(found[turn], -turn) == found[0]).all()


def test_minus_infinity_stays_and_the_larger_number_is_taken() -> None:
    a, b = np.zeros((2, LANES), np.float32)
    a[:6] = -INF, -INF, 1, NAN, INF, -3
    b[:6] = 5, NAN, 7, 2, 0, -4
    finite, larger = np.zeros((2, LANES), np.float32)
    _choose(*(address(array) for array in (a, b, finite, larger)))
    assert finite[:6].tolist() == [-INF, -INF, 7, 2, 0, -4]
    assert larger[[0, 2, 3, 4, 5]].tolist() == [5, 7, 2, INF, -3]
