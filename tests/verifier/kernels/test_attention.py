"""A row's attention is right, and the same bits however its pass and its cache look."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from verifier.cache.kv_cache import KVCache, places_of
from verifier.cache.placement import Kernel, Placement
from verifier.cache.slot_layers import LayerShape, SlotLayer
from verifier.kernels.attention import BLOCK
from verifier.kernels.threads import kernels_only
from verifier.kernels.vectors import LANES
from verifier.model.attention import attend_by_position
from verifier.model.batch import Segment, draft_segment, make_batch, make_table, prompt_segment
from verifier.speculation.tree import DraftTree

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("row_kernels")]

KINDS = (torch.float32, torch.bfloat16, torch.float16)
NUM_SLOTS, CAPACITY = 3, 400
PATH_LEN = 9


@dataclass(frozen=True)
class Layer:
    """What a model's layer asks for."""

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    window: int = 0
    cap: float | None = None
    has_sinks: bool = False

    @property
    def scaling(self) -> float:
        return self.key_dim**-0.5

    def sinks(self) -> Tensor | None:
        return torch.linspace(-2, 3, self.heads) if self.has_sinks else None


LAYERS = [
    Layer(9, 3, 64, 64),
    Layer(4, 4, 16, 16),
    Layer(4, 1, 128, 128),
    Layer(6, 2, 24, 10),  # padded to a multiple of LANES
    Layer(5, 5, 1, 33),
    Layer(8, 2, 48, 32),
    Layer(32, 1, 16, 16),  # a row has as many lines as a piece of work
    Layer(4, 2, 32, 32, window=1),
    Layer(4, 2, 32, 32, window=7),
    Layer(4, 2, 32, 32, window=BLOCK),
    Layer(4, 2, 32, 32, window=BLOCK + 1, cap=3.0),
    Layer(4, 2, 32, 32, cap=5.0),
    Layer(4, 2, 32, 32, has_sinks=True),
    Layer(3, 3, 20, 20, window=130, cap=2.0, has_sinks=True),
]


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Give torch the threads back that it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Words:
    """The queries, keys and values of a sequence, by position."""

    def __init__(self, layer: Layer, kind: torch.dtype, length: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.layer, self.length = layer, length
        # Queries as wide as the result, so that rounding to a short type hides nothing.
        self.queries = torch.randn(length, layer.heads, layer.key_dim) * 2
        self.keys = torch.randn(length, layer.key_heads, layer.key_dim).to(kind)
        self.values = torch.randn(length, layer.key_heads, layer.value_dim).to(kind)

    def rows(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        index = list(positions)
        return self.queries[index], self.keys[index], self.values[index]


def make_cache(layer: Layer, kind: torch.dtype) -> KVCache:
    """Slots full of what other sequences have left."""
    shape = LayerShape(layer.key_heads, layer.key_dim, layer.value_dim).padded_to(LANES)
    cache = KVCache(
        [shape],
        num_slots=NUM_SLOTS,
        capacity=CAPACITY,
        dtype=kind,
        device=torch.device("cpu"),
        is_packed=True,
        kernel=Kernel.POSITIONAL,
    )
    for storage in cache._storages:
        storage.normal_(std=3, generator=torch.Generator().manual_seed(99))
    random.Random(99).shuffle(cache.pages._free)  # pages come in any order
    return cache


Rows = tuple[Tensor, Tensor, Tensor]


def attend(layer: Layer, cache: KVCache, segments: list[Segment], rows: list[Rows]) -> Tensor:
    """One pass; [rows, heads, value_dim]."""
    batch = make_batch(segments)
    for each in segments:
        assert cache.reserve(each.slot, each.kv_span)
    table = make_table(batch, [cache.table(each.slot) for each in segments])
    cache.placement = Placement(torch.empty(0), window=layer.window, table=table)
    query, key, value = (torch.cat(part).transpose(0, 1)[None] for part in zip(*rows, strict=True))
    slot_layer = cache.cache.layers[0]
    assert isinstance(slot_layer, SlotLayer)
    return attend_by_position(
        slot_layer, query, key, value, layer.window > 0, layer.scaling, layer.cap, layer.sinks()
    )


def run_of(slot: int, start: int, count: int) -> Segment:
    return prompt_segment(slot, start, (0,) * count, is_last=False)


def read(
    sequence: Words, cache: KVCache, slot: int, end: int, chunk: int, start: int = 0
) -> Tensor:
    """Read positions `start` to `end` in chunks; what their rows got."""
    found = []
    for first in range(start, end, chunk):
        count = min(chunk, end - first)
        rows = sequence.rows(range(first, first + count))
        found.append(attend(sequence.layer, cache, [run_of(slot, first, count)], [rows]))
    return torch.cat(found)


def naive(sequence: Words, position: int) -> Tensor:
    """What the row at a position reads, [heads, value_dim], in float64."""
    layer = sequence.layer
    first = max(0, position + 1 - layer.window) if layer.window else 0
    seen = slice(first, position + 1)
    group = layer.heads // layer.key_heads
    keys, values = (
        part[seen].double().repeat_interleave(group, 1) for part in (sequence.keys, sequence.values)
    )
    scores = torch.einsum("hd,phd->hp", sequence.queries[position].double(), keys) * layer.scaling
    if layer.cap is not None:
        scores = torch.tanh(scores / layer.cap) * layer.cap
    sinks = layer.sinks()
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None]], 1)
    weights = torch.softmax(scores, 1)[:, : keys.shape[0]]
    return torch.einsum("hp,phd->hd", weights, values)


def plain_rows(sequence: Words) -> Tensor:
    """Every row in a pass of its own."""
    return read(sequence, make_cache(sequence.layer, sequence.keys.dtype), 1, sequence.length, 1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_row_reads_what_the_formula_says(layer: Layer, kind: torch.dtype) -> None:
    sequence = Words(layer, kind, 3 * BLOCK + 5, seed=0)
    found = plain_rows(sequence)
    exact = torch.stack([naive(sequence, position) for position in range(sequence.length)])
    # Scores are off by units in the last place of their size, and weights by as much.
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_rows_bits_depend_neither_on_the_chunks_nor_on_the_threads(
    layer: Layer, kind: torch.dtype
) -> None:
    sequence = Words(layer, kind, 3 * BLOCK + 5, seed=1)
    plain = plain_rows(sequence)
    for num_threads, chunk in itertools.product((1, 2), (2, 3, 17, BLOCK, 100, sequence.length)):
        torch.set_num_threads(num_threads)
        with kernels_only():
            found = read(sequence, make_cache(layer, kind), 2, sequence.length, chunk)
        assert torch.equal(found, plain), (num_threads, chunk)


def tree_around(path_len: int, rng: random.Random) -> tuple[DraftTree, list[int]]:
    """A path of nodes in any place among wrong ones, some of which go on; and the path's nodes."""
    parents: list[int] = []
    path: list[int] = []
    while len(path) < path_len:
        if rng.random() < rng.choice([0.2, 0.9]):
            parents.append(path[-1] if path else -1)
            path.append(len(parents) - 1)
        else:
            parents.append(rng.randrange(-1, len(parents)))
    count = len(parents)
    return DraftTree((0,) * count, tuple(parents), (1.0,) * count), path


def drafted(
    sequence: Words, start: int, tree: DraftTree, path: list[int], rng: random.Random
) -> Rows:
    """The rows of a draft whose path is the sequence's; the other nodes have rows of their own."""
    wrong = Words(
        sequence.layer, sequence.keys.dtype, 1 + len(tree.parents), seed=rng.randrange(1 << 30)
    )
    rows = wrong.rows(range(wrong.length))
    places = [0, *(node + 1 for node in path)]
    for mine, right in zip(rows, sequence.rows(range(start, start + len(places))), strict=True):
        mine[places] = right
    return rows


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_rows_bits_depend_neither_on_wrong_siblings_nor_on_other_sequences(
    layer: Layer, kind: torch.dtype
) -> None:
    rng = random.Random(2)
    sequence = Words(layer, kind, 3 * BLOCK, seed=2)
    other = Words(layer, kind, 3 * BLOCK, seed=3)
    plain, other_plain = plain_rows(sequence), plain_rows(other)
    for _ in range(12):
        start = rng.choice([1, 2, BLOCK - 5, BLOCK - 1, BLOCK, rng.randrange(1, 2 * BLOCK)])
        cache = make_cache(layer, kind)
        read(sequence, cache, 1, start, 50)
        tree, path = tree_around(PATH_LEN, rng)
        rows = drafted(sequence, start, tree, path, rng)
        read_before, count = rng.randrange(0, BLOCK), rng.randrange(1, 90)
        read(other, cache, 0, read_before, 33)
        passes = [
            (draft_segment(1, start, 0, tree), rows),
            (
                run_of(0, read_before, count),
                other.rows(range(read_before, read_before + count)),
            ),
        ]
        rng.shuffle(passes)
        found = attend(layer, cache, [p[0] for p in passes], [p[1] for p in passes])
        first = 0 if passes[0][0].slot == 1 else count
        on_path = [first, *(first + 1 + node for node in path)]
        assert torch.equal(found[on_path], plain[start : start + PATH_LEN + 1])
        beside = 0 if first else 1 + len(tree.parents)
        assert torch.equal(
            found[beside : beside + count], other_plain[read_before : read_before + count]
        )


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[3], LAYERS[-1]], ids=str)
def test_a_rows_bits_stay_after_accepted_drafts_and_copied_rows(
    layer: Layer, kind: torch.dtype
) -> None:
    rng = random.Random(4)
    sequence = Words(layer, kind, 3 * BLOCK, seed=4)
    plain = plain_rows(sequence)
    cache = make_cache(layer, kind)
    slots = [cache.allocate() for _ in range(2)]
    start = BLOCK - 20
    read(sequence, cache, slots[0], start, 30)
    cache.commit(slots[0], list(range(start)))
    while cache.length(slots[0]) + PATH_LEN < 2 * BLOCK:
        start = cache.length(slots[0])
        tree, path = tree_around(PATH_LEN, rng)
        segment = draft_segment(slots[0], start, 0, tree)
        found = attend(layer, cache, [segment], [drafted(sequence, start, tree, path, rng)])
        accepted = [0, *(node + 1 for node in path[: rng.randrange(PATH_LEN)])]
        assert torch.equal(found[accepted], plain[start : start + len(accepted)])
        cache.commit(slots[0], accepted)
        cache.make_moves()
    start = cache.length(slots[0])
    cache.share(slots[1], cache.table(slots[0]), start)
    found = read(sequence, cache, slots[1], sequence.length, 10, start)
    assert torch.equal(found, plain[start:])


def test_nothing_that_is_not_seen_can_harm_a_row() -> None:
    layer = LAYERS[0]
    sequence = Words(layer, torch.float32, BLOCK + 20, seed=5)
    plain = plain_rows(sequence)
    cache = make_cache(layer, torch.float32)
    for storage in cache._storages:
        storage.fill_(torch.nan)
    start = BLOCK - 4
    assert torch.equal(read(sequence, cache, 1, start, 25), plain[:start])
    tree = DraftTree((0,) * 4, (-1, -1, 1, 2), (1.0,) * 4)  # the first is wrong, and no number
    rows = drafted(sequence, start, tree, [1, 2, 3], random.Random(5))
    for part in rows:
        part[1] = torch.nan
    found = attend(layer, cache, [draft_segment(1, start, 0, tree)], [rows])
    assert torch.equal(found[[0, 2, 3, 4]], plain[start : start + 4])


def test_new_rows_are_written_to_their_places_and_nothing_else_is() -> None:
    layer = LAYERS[3]
    for kind in KINDS:
        sequence = Words(layer, kind, 12, seed=6)
        cache = make_cache(layer, kind)
        before = [storage.clone() for storage in cache._storages]
        read(sequence, cache, 1, 12, 12)
        rows = (sequence.keys, sequence.values)
        places = torch.from_numpy(places_of(cache.table(1), np.arange(12)))
        for new, old, row in zip(cache._storages, before, rows, strict=True):
            written = new[0][:, places]
            assert torch.equal(written[..., : row.shape[-1]], row.transpose(0, 1))
            assert not written[..., row.shape[-1] :].any()
            new[0][:, places] = old[0][:, places]
            assert torch.equal(new, old)
