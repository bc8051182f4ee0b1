"""Passes by one block of integers, replayed: static places, buckets, the same results."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models.tiled_twin import Recorder
from verifier.cache.placement import PassBlock
from verifier.kernels import tiled_layout as layout
from verifier.model.batch import draft_segment, make_batch, make_table, prompt_segment
from verifier.model.captured import ROW_BUCKETS, CapturedPasses, padded_rows
from verifier.model.pass_block import make_block
from verifier.speculation.tree import DraftTree

CPU = torch.device("cpu")


@given(st.integers(1, 1000))
def test_passes_are_padded_to_the_next_bucket_and_long_ones_are_not(rows: int) -> None:
    if rows > ROW_BUCKETS[-1]:
        assert padded_rows(rows) == rows
    else:
        assert padded_rows(rows) == min(b for b in ROW_BUCKETS if b >= rows)


def doubled(block: PassBlock) -> tuple[Tensor]:
    """Stands in for a model: twice the tokens of a block's rows."""
    end = layout.HEADER + layout.ROW_FIELDS * block.num_rows
    rows = block.numbers[layout.HEADER : end].view(block.num_rows, layout.ROW_FIELDS)
    return (2 * rows[:, layout.TOKEN],)


def passes(run: Any, recorder: Recorder) -> CapturedPasses:
    return CapturedPasses(run, recorder, tile_rows=4, num_works=lambda rows: 2 * rows, device=CPU)


def block_of(tokens: list[int], num_rows: int) -> Any:
    segment = prompt_segment(0, 0, tuple(tokens), is_last=True)
    batch = make_batch([segment])
    table = make_table(batch, [list(range(20))])
    return make_block(table, batch.token_ids, tile_rows=4, num_rows=num_rows)


def test_a_graph_is_made_once_and_reads_what_lies_in_the_same_place_each_time() -> None:
    recorder, addresses = Recorder(), []

    def run(block: PassBlock) -> tuple[Tensor]:
        addresses.append(block.numbers.data_ptr())
        return doubled(block)

    tried = passes(run, recorder)
    for tokens in ([1, 2, 3], [7], [4] * 16):
        block = block_of(tokens, 16)
        found = tried.run(block.numbers, block.num_rows, block.num_works)
        assert found is not None
        assert found[0].tolist() == [2 * token for token in tokens] + [0] * (16 - len(tokens))
    assert len(recorder.graphs) == 1
    assert recorder.graphs[0].num_replays == 3
    block = block_of([5] * 17, padded_rows(17))
    again = tried.run(block.numbers, block.num_rows, block.num_works)
    assert again is not None
    assert again[0].shape == (32,)
    assert len(recorder.graphs) == 2
    assert len(set(addresses)) == 1


def test_what_no_graph_has_room_for_is_not_replayed() -> None:
    tried = passes(doubled, Recorder())
    long = block_of([1] * 513, padded_rows(513))
    assert tried.run(long.numbers, long.num_rows, long.num_works) is None
    block = block_of([1], 16)
    assert tried.run(block.numbers, 16, 33) is None
    assert tried.run(np.zeros(1 << 20, np.int32), 16, 1) is None


def test_every_size_is_captured_the_largest_first_while_no_row_is_there() -> None:
    sizes = []

    def run(block: PassBlock) -> tuple[Tensor]:
        sizes.append(block.num_rows)
        assert not block.numbers[: layout.HEADER].any()
        return doubled(block)

    passes(run, Recorder()).capture_all()
    assert sizes == sorted(ROW_BUCKETS, reverse=True)


def test_a_block_says_which_rows_share_a_tile_and_how_its_positions_are_cut() -> None:
    tree = DraftTree((5, 6, 7, 8), (-1, -1, 0, 0), (1.0,) * 4)
    long = layout.SPAN + 3
    segments = [draft_segment(1, long, 4, tree), prompt_segment(0, 3, (8, 9), is_last=True)]
    batch = make_batch(segments)
    tables = [list(range(100, 100 + long // 64 + 1)), [7]]
    made = make_block(make_table(batch, tables), batch.token_ids, tile_rows=4, num_rows=16)
    numbers = made.numbers.tolist()
    assert numbers[layout.NUM_ROWS] == 7
    at, count = numbers[layout.WORKS_AT], numbers[layout.NUM_WORKS]
    works = [numbers[at + 4 * i : at + 4 * i + 3] for i in range(count)]
    assert works == [[0, 4, 0], [0, 4, 1], [4, 1, 0], [4, 1, 1], [5, 2, 0]]
    rows = made.numbers[layout.HEADER :][: 16 * layout.ROW_FIELDS].reshape(16, -1)
    assert rows[:7, layout.TOKEN].tolist() == [4, 5, 6, 7, 8, 8, 9]
    assert rows[:7, layout.WORK_AT].tolist() == [0, 0, 0, 0, 2, 4, 4]
    assert rows[:7, layout.TILE_ROW].tolist() == [0, 1, 2, 3, 0, 0, 1]
    assert not rows[7:].any()
    assert numbers[numbers[layout.PAGES_AT] :] == [*tables[0], 7]
