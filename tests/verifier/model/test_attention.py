"""Every way to compute packed attention gives what a naive loop gives, and the same text."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.models.engine_runs import ids_of, make_engine, make_request, run_all
from tests.support.models.fake_drafts import FakeDrafts, random_tree
from tests.support.models.reference import family, generate
from verifier.cache.kv_cache import KVCache, LayerShape
from verifier.cache.placement import Kernel, Placement
from verifier.model.attention import MAX_JOINED_ROWS, make_together, packed_attention
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form

KV_HEADS, GROUPS, DIM, SLOTS, CAPACITY = 2, 3, 8, 5, 100
CPU = torch.device("cpu")

segment = st.tuples(st.integers(1, 6), st.integers(0, 20))  # rows, cached rows before them


class Layer(nn.Module):
    """What the model's attention module shows of itself."""

    def __init__(self, cache: KVCache) -> None:
        super().__init__()
        self.kv_cache = cache


@settings(max_examples=40, deadline=None)
@given(
    st.lists(segment, min_size=1, max_size=SLOTS),
    st.permutations(range(SLOTS)),
    st.sampled_from(list(Kernel)),
    st.booleans(),
)
def test_packed_attention_is_the_naive_one(
    lengths: list[tuple[int, int]], slots: list[int], kernel: Kernel, has_long: bool
) -> None:
    torch.manual_seed(0)
    if has_long:
        lengths = [(MAX_JOINED_ROWS + 1, 3), *lengths[1:]]
    ranges, start = [], 0
    for slot, (rows, before) in zip(slots, lengths, strict=False):
        ranges.append((slot, start, start + rows, before + rows))
        start += rows
    cache = KVCache(
        [LayerShape(KV_HEADS, DIM, DIM)],
        num_slots=SLOTS,
        capacity=CAPACITY,
        dtype=torch.float32,
        device=CPU,
        is_packed=True,
        kernel=kernel,
    )
    together = make_together(ranges, CPU) if kernel is Kernel.BATCHED else None
    cache.placement = Placement(torch.empty(0), torch.empty(0), tuple(ranges), together)
    key, value = torch.randn(2, SLOTS, KV_HEADS, CAPACITY, DIM)
    query = torch.randn(1, KV_HEADS * GROUPS, start, DIM)
    mask = _random_mask(ranges, start)
    got, _ = packed_attention(Layer(cache), query, key, value, mask[None, None])
    torch.testing.assert_close(got[0], _naive(query[0], key, value, mask, ranges))


def _random_mask(ranges: list[tuple[int, int, int, int]], num_rows: int) -> Tensor:
    mask = torch.zeros(num_rows, max(r[3] for r in ranges), dtype=torch.bool)
    for _, start, end, kv_len in ranges:
        mask[start:end, :kv_len] = torch.rand(end - start, kv_len) < 0.5
        # A row always sees itself.
        mask[range(start, end), range(kv_len - (end - start), kv_len)] = True
    return mask


def _naive(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, ranges: list[tuple[int, ...]]
) -> Tensor:
    output = torch.zeros(query.shape[1], query.shape[0], DIM)
    for slot, start, end, _ in ranges:
        for row in range(start, end):
            columns = mask[row].nonzero()[:, 0]
            for head in range(query.shape[0]):
                keys = key[slot, head // GROUPS, columns]
                weights = torch.softmax(keys @ query[head, row] * DIM**-0.5, 0)
                output[row, head] = weights @ value[slot, head // GROUPS, columns]
    return output


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["batched", "eager"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma2", "gpt_oss", "gpt2"])
def test_text_with_drafts_equals_generate_by_every_kernel(name: str, kernel: str) -> None:
    hf = family(name).build()
    prompts = [[(i * 7 + j * 3) % 50 + 3 for j in range(3 + 9 * i)] for i in range(4)]
    answers = [generate(hf, prompt, 24, []) for prompt in prompts]
    model = TargetModel(hf, "small", max_context=80, attention=kernel)
    choose_form(model, hf, num_slots=3, draft_rows=65)
    rng = random.Random(4)
    drafts = FakeDrafts(lambda i, tokens, n: random_tree(rng, rng.randrange(24), range(20)))
    results = run_all(make_engine(model, drafts), [make_request(p, 24) for p in prompts])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert sum(completion.num_draft_tokens for _, completion in results) > 0
