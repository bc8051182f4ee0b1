"""Both ways to compute packed attention give what a naive loop gives, and the same text."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.models.draft_trees import trees
from tests.support.models.engine_runs import ids_of, make_engine, make_request, run_all
from tests.support.models.fake_drafts import FakeDrafts, random_tree
from tests.support.models.reference import family, generate
from verifier.cache.kv_cache import KVCache, places_of
from verifier.cache.placement import Kernel, Placement, SegmentRows
from verifier.cache.slot_layers import LayerShape
from verifier.kernels.vectors import LANES
from verifier.model.attention import packed_attention
from verifier.model.batch import (
    Batch,
    Segment,
    draft_segment,
    make_batch,
    make_masks,
    make_places,
    make_table,
    prompt_segment,
)
from verifier.model.masked_attention import MAX_JOINED_ROWS, make_together
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form

pytestmark = pytest.mark.usefixtures("row_kernels")

KV_HEADS, GROUPS, DIM, SLOTS, CAPACITY = 2, 3, 8, 5, 100
CPU = torch.device("cpu")
KERNELS = (Kernel.POSITIONAL, Kernel.MASKED)  # the tiled one is tried in `test_tiled`

runs = st.integers(1, 6).map(lambda count: prompt_segment(0, 0, (0,) * count, is_last=False))
drafts = trees().map(lambda tree: draft_segment(0, 0, 0, tree))
sequences = st.tuples(st.one_of(runs, drafts), st.integers(0, 20))  # cached rows before


@settings(max_examples=60)
@given(
    st.lists(sequences, min_size=1, max_size=SLOTS),
    st.permutations(range(SLOTS)),
    st.sampled_from(KERNELS),
    st.sampled_from([None, 1, 3, 8]),
    st.sampled_from([None, 2.0]),
    st.booleans(),
    st.booleans(),
)
def test_packed_attention_is_the_naive_one(
    shapes: list[tuple[Segment, int]],
    slots: list[int],
    kernel: Kernel,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    has_long: bool,
) -> None:
    torch.manual_seed(0)
    segments = [
        Segment(slot, before, each.token_ids, each.tree, each.needs_logits)
        for slot, (each, before) in zip(slots, shapes, strict=False)
    ]
    if has_long:
        long = (0,) * (MAX_JOINED_ROWS + 1)
        segments[0] = prompt_segment(segments[0].slot, 3, long, is_last=False)
    batch = make_batch(segments)
    cache = filled_cache(kernel, batch, window)
    tables = [cache.table(each.slot) for each in segments]
    layer = cache.cache.layers[0]
    expected_keys, expected_values = layer.keys.clone(), layer.values.clone()
    num_rows = len(batch.token_ids)
    key, value = torch.randn(2, 1, KV_HEADS, num_rows, DIM)
    query = torch.randn(1, KV_HEADS * GROUPS, num_rows, DIM)
    for held, new in ((expected_keys, key), (expected_values, value)):
        for row, place in enumerate(make_places(batch, tables)):
            held[:, place, :DIM] = new[0, :, row]
    sinks = torch.randn(KV_HEADS * GROUPS) if has_sinks else None
    handed, values = cache.cache.update(key, value, 0)
    placeholder = torch.ones(1, 1, 1, 1 if window is None else 2, dtype=torch.bool)
    got, _ = packed_attention(
        nn.Module(), query, handed, values, placeholder, softcap=softcap, s_aux=sinks
    )
    assert torch.equal(layer.keys[..., :DIM], expected_keys[..., :DIM])
    assert torch.equal(layer.values[..., :DIM], expected_values[..., :DIM])
    mask = torch.from_numpy(make_masks(batch, window)[-1])
    pages = [each for each, own in zip(tables, segments, strict=True) for _ in own.token_ids]
    judged = naive(query[0], expected_keys, expected_values, mask, pages, softcap, sinks)
    torch.testing.assert_close(got[0], judged)


def filled_cache(kernel: Kernel, batch: Batch, window: int | None) -> KVCache:
    """Slots with rows in all places, set up for a pass as the model does it."""
    shape = LayerShape(KV_HEADS, DIM, DIM)
    cache = KVCache(
        [shape.padded_to(LANES) if kernel is Kernel.POSITIONAL else shape],
        num_slots=SLOTS,
        capacity=CAPACITY,
        dtype=torch.float32,
        device=CPU,
        is_packed=True,
        kernel=kernel,
    )
    for storage in cache._storages:
        storage[..., :DIM].normal_()
    random.Random(7).shuffle(cache.pages._free)
    for slot in range(SLOTS):
        cache.reserve(slot, CAPACITY)
    tables = [cache.table(each.slot) for each in batch.segments]
    places = torch.from_numpy(make_places(batch, tables))
    segments, start = [], 0
    for each, table in zip(batch.segments, tables, strict=True):
        read = torch.from_numpy(places_of(table, np.arange(each.kv_span)))
        segments.append(SegmentRows(start, start + each.num_rows, read))
        start += each.num_rows
    if kernel is Kernel.POSITIONAL:
        cache.placement = Placement(places, window=window or 0, table=make_table(batch, tables))
    else:
        masks = tuple(torch.from_numpy(m)[None, None] for m in make_masks(batch, window))
        together = make_together(segments, CPU)
        cache.placement = Placement(places, tuple(segments), together=together, masks=masks)
    return cache


def naive(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    tables: Sequence[Sequence[int]],  # of each row
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    output = torch.zeros(query.shape[1], query.shape[0], DIM)
    for row, table in enumerate(tables):
        columns = torch.from_numpy(places_of(table, mask[row].nonzero()[:, 0].numpy()))
        for head in range(query.shape[0]):
            scores = keys[head // GROUPS, columns, :DIM] @ query[head, row] * DIM**-0.5
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if sinks is not None:
                scores = torch.cat([scores, sinks[head, None]])
            weights = torch.softmax(scores, 0)[: len(columns)]
            output[row, head] = weights @ values[head // GROUPS, columns, :DIM]
    return output


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [kernel.value for kernel in KERNELS])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma2", "gpt_oss", "gpt2"])
def test_text_with_drafts_equals_generate_by_every_kernel(name: str, kernel: str) -> None:
    hf = family(name).build()
    prompts = [[(i * 7 + j * 3) % 50 + 3 for j in range(3 + 9 * i)] for i in range(4)]
    answers = [generate(hf, prompt, 24, []) for prompt in prompts]
    model = TargetModel(hf, "small", max_context=80, attention=kernel)
    assert model.attention == kernel
    choose_form(model, hf, num_slots=3, draft_rows=65)
    rng = random.Random(4)
    drafts = FakeDrafts(lambda i, tokens, n: random_tree(rng, rng.randrange(24), range(20)))
    results = run_all(make_engine(model, drafts), [make_request(p, 24) for p in prompts])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert sum(completion.num_draft_tokens for _, completion in results) > 0


def test_rows_are_taken_one_by_one_on_a_cpu_unless_asked_otherwise() -> None:
    for attention, expected in [("auto", "positional"), ("masked", "masked")]:
        model = TargetModel(family("llama").build(), "small", max_context=80, attention=attention)
        assert model.attention == expected
