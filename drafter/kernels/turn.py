"""The kernels of a turn: what many sequences emitted, then what may follow in each of them."""

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.addresses import floats_at, ints_at
from drafter.kernels.compile import Int, kernel, part
from drafter.kernels.draft import propose
from drafter.kernels.observe import keep_successors, observe
from drafter.kernels.record import NODE_SPACE, PLACES, PLACES_LEN, POOL_SPACE, Floats, Ints

# A sequence's row: where each of its arrays begins and how long it is, then what is asked of it.
LOCAL, RECORD, ROWS, SHARED, SUCCESSORS, MODEL = range(0, 12, 2)
NUM_TOKENS, FIRST_ROW, NUM_VERIFIED, MAX_NODES = range(12, 16)
ROW_LEN = 16
NONE = -1  # in place of the first row of successors: they are not known

# Below this chance a node costs more to verify than it can ever bring.
MIN_PROBABILITY = 0.001

Table = NDArray[np.int64]  # a row for each sequence, one behind the other


@kernel
def take_turns(
    table: Table,
    token_ids: Ints,
    following: Ints,
    nodes: Ints,
    chances: Floats,
    scratch: Ints,
    paths: Floats,
) -> Int:
    """Learn what each sequence emitted, then draft for those that want nodes.

    `token_ids` holds the sequences' tokens one behind the other, `following` the successors of
    those that have some: a row per token. `nodes` and `chances` have equal room for each sequence:
    its tokens, parents and sources, and beside them its nodes' chances. The number of its nodes is
    written in place of how many it wants. Returns how many verified nodes lay on emitted paths.
    """
    accepted = np.int64(0)
    start = np.int64(0)
    for row in range(0, len(table), ROW_LEN):
        end = start + table[row + NUM_TOKENS]
        if end > start:
            accepted += _observe(table, np.int64(row), token_ids[start:end], following)
        start = end
    space = len(chances) * ROW_LEN // max(len(table), 1)
    for row in range(0, len(table), ROW_LEN):
        if table[row + MAX_NODES] > 0:
            first = np.int64(row) // ROW_LEN * space
            own_nodes = nodes[3 * first : 3 * (first + space)]
            own_chances = chances[first : first + space]
            count = _draft(table, np.int64(row), scratch, paths, own_nodes, own_chances)
            table[row + MAX_NODES] = count
    return accepted


@part
def _observe(table: Table, row: Int, token_ids: Ints, following: Ints) -> Int:
    local, count = _ints(table, row + LOCAL), len(token_ids)
    first_row = np.int64(table[row + FIRST_ROW])
    if first_row != NONE:
        successors = _ints(table, row + SUCCESSORS)
        keep_successors(local, successors, token_ids, following[first_row:], count)
    model, record = _floats(table, row + MODEL), _ints(table, row + RECORD)
    verified = np.int64(table[row + NUM_VERIFIED])
    return observe(local, model, record, _ints(table, row + ROWS), token_ids, count, verified)


@part
def _draft(
    table: Table, row: Int, scratch: Ints, paths: Floats, nodes: Ints, chances: Floats
) -> Int:
    record = _ints(table, row + RECORD)
    count = propose(
        _ints(table, row + LOCAL),
        _ints(table, row + SHARED),
        _ints(table, row + SUCCESSORS),
        _floats(table, row + MODEL),
        record,
        _ints(table, row + ROWS),
        scratch,
        paths,
        np.int64(table[row + MAX_NODES]),
        MIN_PROBABILITY,
    )
    space = len(chances)
    tree = PLACES + PLACES_LEN * np.int64(record[NODE_SPACE])
    first = np.int64(record[POOL_SPACE]) + 1
    for node in range(count):
        nodes[node] = scratch[tree + node]
        nodes[space + node] = scratch[tree + count + node]
        nodes[2 * space + node] = scratch[tree + 2 * count + node]
        chances[node] = paths[first + node]
    return count


@part
def _ints(table: Table, at: Int) -> Ints:
    return ints_at(np.int64(table[at]), np.int64(table[at + 1]))


@part
def _floats(table: Table, at: Int) -> Floats:
    return floats_at(np.int64(table[at]), np.int64(table[at + 1]))
