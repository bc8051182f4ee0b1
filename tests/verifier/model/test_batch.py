"""The packed layout: each row sees its own committed rows and its ancestors, and nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models.draft_trees import trees
from verifier.cache.pages import PAGE
from verifier.model.batch import (
    draft_segment,
    make_batch,
    make_masks,
    make_places,
    make_table,
    prompt_segment,
)
from verifier.speculation.tree import DraftTree


@given(trees(), st.integers(0, 9), st.integers(1, 6), st.sampled_from([None, 1, 2, 4, 100]))
def test_every_row_sees_its_past_and_only_its_past(
    tree: DraftTree, kv_len: int, num_prompt: int, window: int | None
) -> None:
    draft = draft_segment(3, kv_len, 7, tree)
    prompt = prompt_segment(1, 2, tuple(range(num_prompt)), is_last=False)
    batch = make_batch([prompt, draft])
    mask, *window_masks = make_masks(batch, window)
    assert len(window_masks) == (window is not None)
    for segment, start in ((prompt, 0), (draft, num_prompt)):
        parents = [-1, *(p + 1 for p in tree.parents)]
        if segment is prompt:
            parents = list(range(-1, num_prompt - 1))
        for row in range(segment.num_rows):
            chain = [row]
            while parents[chain[-1]] >= 0:
                chain.append(parents[chain[-1]])
            position = segment.kv_len + len(chain) - 1
            assert batch.positions[start + row] == position
            seen = set(range(segment.kv_len)) | {segment.kv_len + r for r in chain}
            assert set(np.flatnonzero(mask[start + row])) == seen
            if window is not None:
                near = {j for j in range(segment.kv_len) if position - j < window}
                near |= {segment.kv_len + r for i, r in enumerate(chain) if i < window}
                assert set(np.flatnonzero(window_masks[0][start + row])) == near


def test_only_wanted_rows_get_logits() -> None:
    tree = DraftTree((1, 2), (-1, -1), (0.5, 0.4))
    batch = make_batch(
        [
            prompt_segment(0, 0, (5, 6, 7), is_last=False),
            draft_segment(1, 4, 9, tree),
            prompt_segment(2, 0, (5, 6), is_last=True),
        ]
    )
    assert batch.logit_rows.tolist() == [3, 4, 5, 7]
    assert batch.indices.tolist() == [0, 1, 2, 4, 5, 6, 0, 1]


@given(trees(), st.integers(0, 70), st.integers(1, 6), st.booleans())
def test_every_row_finds_its_positions_in_their_order(
    tree: DraftTree, kv_len: int, num_prompt: int, is_first: bool
) -> None:
    draft = draft_segment(3, kv_len, 7, tree)
    prompt = prompt_segment(1, 2, tuple(range(num_prompt)), is_last=False)
    batch = make_batch([draft, prompt] if is_first else [prompt, draft])
    tables = [[5, 2, 7], [3, 8, 1]]
    table, (mask,) = make_table(batch, tables), make_masks(batch, None)
    assert len(table.rows) == len(batch.token_ids)
    ends = [draft.num_rows, prompt.num_rows] if is_first else [prompt.num_rows, draft.num_rows]
    assert table.runs == ((0, ends[0]), (ends[0], sum(ends)))
    written = make_places(batch, tables)
    for row, (first, position, settled, start, place) in enumerate(table.rows.tolist()):
        pages = tables[row >= ends[0]]
        assert table.tables[first] == pages[0]
        assert (position, place) == (batch.positions[row], written[row])
        places = [pages[i // PAGE] * PAGE + i % PAGE for i in range(settled)]
        others = table.places[start : start + position + 1 - settled].tolist()
        # Rows stand in the cache behind those that they follow, so the order is by index too.
        seen = np.flatnonzero(mask[row])
        assert places + others == [pages[i // PAGE] * PAGE + i % PAGE for i in seen]
        assert (places + others)[-1] == place
        assert not others or seen[settled] != settled, "a settled position is listed"
