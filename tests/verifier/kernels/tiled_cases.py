"""The kernels of a GPU in Triton's interpreter; `test_tiled` runs them in a process of their own.

Triton reads whether it interprets when it is imported. The interpreter knows no products in
bfloat16.
"""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.models.reference import Family, family
from tests.verifier.kernels.test_attention import Layer, Words, drafted, naive, run_of, tree_around
from verifier.cache.kv_cache import KVCache, places_of
from verifier.cache.placement import Kernel, PassBlock, Placement
from verifier.cache.slot_layers import LayerShape
from verifier.kernels import tiled_attention, tiled_product
from verifier.kernels import tiled_layout as layout
from verifier.model import invariance
from verifier.model.batch import Segment, draft_segment, make_batch, make_table
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.pass_block import make_block
from verifier.model.probe import choose_form
from verifier.model.tiled import TiledProduct, attend_tiled

CPU = torch.device("cpu")
KINDS = (torch.float32, torch.float16)
LAYERS = [
    Layer(4, 2, 16, 16),
    Layer(6, 2, 24, 10),
    Layer(2, 2, 136, 16),  # keys in chunks
    Layer(3, 3, 16, 16, window=7),
    Layer(4, 1, 32, 16, window=70, cap=3.0),
    Layer(17, 1, 16, 16, has_sinks=True),  # more heads than a tile has lines by default
]
SPLIT = 2  # blocks, so that little has to be read until there are two splits
LENGTH, START = 200, 188  # behind a split, and in the middle of a page
TREE_LEN = 4


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of few blocks; and products of the interpreter that NumPy's library would round by a
    row's place in a tile."""

    def matmul(a: Any, b: Any, dtype: Any = None) -> Any:
        return np.einsum("ik,kj->ij", a, b, dtype=dtype, casting="unsafe")

    monkeypatch.setattr(np, "matmul", matmul)
    for module in (layout, tiled_attention):
        monkeypatch.setattr(module, "SPLIT", SPLIT)
        monkeypatch.setattr(module, "SPAN", SPLIT * layout.BLOCK)


def make_cache(layer: Layer, kind: torch.dtype) -> KVCache:
    cache = KVCache(
        [LayerShape(layer.key_heads, layer.key_dim, layer.value_dim)],
        num_slots=2,
        capacity=800,
        dtype=kind,
        device=CPU,
        is_packed=True,
        kernel=Kernel.TILED,
    )
    for storage in cache._storages:
        storage.normal_(std=3, generator=torch.Generator().manual_seed(99))
    random.Random(99).shuffle(cache.pages._free)
    return cache


def hold(cache: KVCache, slot: int, words: Words, length: int) -> None:
    """Let a slot hold the first rows, as passes before would have left them."""
    cache.reserve(slot, length)
    places = places_of(cache.table(slot), np.arange(length))
    keys, values = cache.row_views()[0]
    keys[:, places] = words.keys[:length].transpose(0, 1)
    values[:, places] = words.values[:length].transpose(0, 1)


def attend(layer: Layer, cache: KVCache, segments: list[Segment], rows: list[Any]) -> Tensor:
    """One pass; [rows, heads, value_dim]."""
    batch = make_batch(segments)
    for each in segments:
        assert cache.reserve(each.slot, each.kv_span)
    table = make_table(batch, [cache.table(each.slot) for each in segments])
    tile_rows = layout.tile_rows([layer.heads // layer.key_heads])
    num_rows = len(batch.token_ids) + 3  # some only pad the pass
    made = make_block(table, batch.token_ids, tile_rows=tile_rows, num_rows=num_rows)
    numbers = torch.from_numpy(made.numbers)
    block = PassBlock(numbers, num_rows, made.num_works + 5, tile_rows)
    cache.placement = Placement(numbers, window=layer.window, block=block)
    padding = tuple(part[:1].repeat(3, 1, 1) for part in rows[0])
    parts = zip(*rows, padding, strict=True)
    query, key, value = (torch.cat(part).transpose(0, 1)[None] for part in parts)
    slot_layer: Any = cache.cache.layers[0]
    kind = slot_layer.keys.dtype
    scales = (layer.window > 0, layer.scaling, layer.cap, layer.sinks())
    found = attend_tiled(slot_layer, query.to(kind), key.to(kind), value.to(kind), *scales)
    assert not found[-3:].any()
    return found[:-3]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [*((layer, torch.float32) for layer in LAYERS), *((LAYERS[i], torch.float16) for i in (2, 4))],
    ids=str,
)
def test_a_row_reads_what_the_formula_says_and_its_bits_mind_nothing_else(
    layer: Layer, kind: torch.dtype
) -> None:
    rng = random.Random(3)
    words, other = (Words(layer, kind, LENGTH, seed=seed) for seed in (2, 3))
    for each in (words, other):
        each.queries = each.queries.to(kind).float()
    positions = range(START, START + TREE_LEN + 1)
    cache = make_cache(layer, kind)
    hold(cache, 0, words, START)
    plain = torch.cat(
        [attend(layer, cache, [run_of(0, at, 1)], [words.rows([at])]) for at in positions]
    )
    exact = torch.stack([naive(words, position) for position in positions])
    tolerance = 3e-5 if kind is torch.float32 else 1e-2
    torch.testing.assert_close(plain.double(), exact, rtol=tolerance, atol=tolerance)

    cache = make_cache(layer, kind)
    hold(cache, 0, words, START)
    together = attend(layer, cache, [run_of(0, START, TREE_LEN + 1)], [words.rows(positions)])
    assert torch.equal(together, plain)

    tree, path = tree_around(TREE_LEN, rng)
    cache = make_cache(layer, kind)
    hold(cache, 0, words, START)
    hold(cache, 1, other, 60)
    passes = [
        (run_of(1, 60, 6), other.rows(range(60, 66))),
        (draft_segment(0, START, 0, tree), drafted(words, START, tree, path, rng)),
    ]
    found = attend(layer, cache, [p[0] for p in passes], [p[1] for p in passes])
    assert torch.equal(found[[6, *(7 + node for node in path)]], plain)
    beside = torch.stack([naive(other, position) for position in range(60, 66)])
    torch.testing.assert_close(found[:6].double(), beside, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("inputs", [100, 1024], ids=lambda n: f"{n} inputs")
def test_a_product_is_right_and_no_row_minds_the_others(kind: torch.dtype, inputs: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(90, inputs).to(kind), torch.randn(90).to(kind)
    rows = torch.randn(70, inputs).to(kind)
    assert tiled_product.parts_of(90, inputs) == (1 if inputs == 100 else 2)
    product = TiledProduct(weight)
    found = product(rows, bias)
    expected = rows.double() @ weight.double().T + bias.double()
    tolerance = 1e-4 if kind is torch.float32 else 5e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for chosen in ([0], [3, 68], list(range(5, 70))):
        assert torch.equal(product(rows[chosen], bias), found[chosen])
    assert product(rows[:0]).shape == (0, 90)
    turned = TiledProduct(weight.T.contiguous().T)  # as some models keep theirs
    assert torch.equal(turned(rows, bias), found)


def test_each_row_is_multiplied_by_its_experts_weight() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 20, 30), torch.randn(5, 20)
    rows = torch.randn(7, 30)
    experts = torch.tensor([0] * 3 + [2] * 70 + [4])
    sources = torch.randint(7, (74,))
    found = tiled_product.multiply_by_expert(rows, weight, bias, sources, experts)
    expected = torch.einsum("rk,rok->ro", rows[sources], weight[experts]) + bias[experts]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_a_model_on_these_kernels_says_what_it_says_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariance, "why_not_bitwise", lambda model: "")
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "intermediate_size": 32}
    hf = Family(name, family(name).shape | shape).build()
    model = TargetModel(hf, "small", max_context=64, attention="tiled")
    choose_form(model, hf, num_slots=2, draft_rows=9)
    assert model.form is VerificationMode.PACKED, model.reason
