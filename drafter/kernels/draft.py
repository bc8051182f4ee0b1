"""The kernels of a draft: one best-first expansion over the places of the context in two tries.

A node is the set of places in the local and the namespace trie where its path has been seen before.
What follows those places are its candidates; a deep node looks its own last tokens up again.
"""

import numpy as np

from drafter.kernels import mixing
from drafter.kernels.candidates import find_candidates
from drafter.kernels.compile import Int, Real, part
from drafter.kernels.evidence import score
from drafter.kernels.frequent import pop, push, push_common, rank_common
from drafter.kernels.occurrences import find_places
from drafter.kernels.record import (
    COMMON_AT,
    COMMON_LEN,
    COMMON_RANK,
    FOLLOWS,
    FULL_HIT_RATE,
    HIT_RATE,
    LOCAL_CELL,
    NEXT_COMMON,
    NODE_LEN,
    NODE_SPACE,
    NODES_AT,
    NUM_FOUND,
    NUM_NODES,
    NUM_POOLED,
    PARENT,
    PLACES,
    PLACES_LEN,
    POOL_AT,
    POOL_SPACE,
    POOLED_LEN,
    SHARED_CELL,
    SOURCE,
    STEP,
    TOKEN,
    Floats,
    Ints,
)
from drafter.kernels.trie import Arena
from rpc.contract import Source

# Whose evidence a node rests on, numbered as on the wire.
LOCAL, NAMESPACE, SUCCESSORS = map(int, (Source.LOCAL, Source.NAMESPACE, Source.SUCCESSORS))


@part
def propose(
    local: Arena,
    shared: Arena,
    successors: Ints,
    model: Floats,
    record: Ints,
    rows: Ints,
    scratch: Ints,
    chances: Floats,
    max_nodes: Int,
    floor: Real,
) -> Int:
    """Grow the draft tree into the record, most probable node first; return its number of nodes.

    `chances` receives the path chance of each candidate and, after the pool, of each node; a
    candidate below `floor` is not drafted. The tree itself is written where the heap was.
    """
    forget_draft(record)
    record[NUM_POOLED] = 0
    rank_common(local, shared, model, record, scratch, chances)
    heap = PLACES + PLACES_LEN * np.int64(record[NODE_SPACE])
    pool = np.int64(record[POOL_SPACE])
    num_heaped: Int = np.int64(0)
    num_nodes = np.int64(0)
    chances[pool] = 1.0
    while num_nodes < max_nodes:
        _expand(local, shared, successors, model, record, rows, scratch, chances, num_nodes)
        num_heaped = _push_found(record, scratch, heap, chances, num_heaped, num_nodes, floor)
        num_heaped = push_common(
            model, record, scratch, rows, chances, heap, num_heaped, num_nodes, floor
        )
        if num_heaped == 0:
            break
        best = pop(scratch, heap, chances, num_heaped)
        num_heaped -= 1
        if record[record[POOL_AT] + POOLED_LEN * best + COMMON_RANK] > 0:
            above = np.int64(record[record[POOL_AT] + POOLED_LEN * best + FOLLOWS])
            num_heaped = push_common(
                model, record, scratch, rows, chances, heap, num_heaped, above, floor
            )
        num_nodes += 1
        _add_node(model, record, rows, chances, num_nodes, best)
    record[NUM_NODES] = num_nodes
    _correct(model, record, chances, num_nodes)
    _write_tree(record, scratch, heap, num_nodes)
    return num_nodes


@part
def forget_draft(record: Ints) -> None:
    """Leave nothing to learn from: no nodes, and a root that was never expanded."""
    record[NUM_NODES] = 0
    record[NODES_AT + NUM_FOUND] = 0
    record[NODES_AT + NEXT_COMMON] = -1


@part
def _expand(
    local: Arena,
    shared: Arena,
    successors: Ints,
    model: Floats,
    record: Ints,
    rows: Ints,
    scratch: Ints,
    chances: Floats,
    node: Int,
) -> None:
    """Gather the node's candidates and weigh them."""
    num_places = find_places(local, shared, record, scratch, node)
    num_found = find_candidates(local, shared, successors, record, scratch, node, num_places)
    record[NODES_AT + NODE_LEN * node + NEXT_COMMON] = 0
    hit_rate = np.int64(record[HIT_RATE]) * mixing.NUM_HIT_RATES // (FULL_HIT_RATE + 1)
    score(local, shared, model, record, scratch, rows, chances, node, num_found, hit_rate)


@part
def _push_found(
    record: Ints,
    scratch: Ints,
    heap: Int,
    chances: Floats,
    num_heaped: Int,
    node: Int,
    floor: Real,
) -> Int:
    """Put the candidates just found on the heap; return its size."""
    stop = np.int64(record[NUM_POOLED])
    for index in range(stop - record[NODES_AT + NODE_LEN * node + NUM_FOUND], stop):
        if np.float64(chances[index]) >= floor:
            num_heaped = push(scratch, heap, chances, num_heaped, index)
    return num_heaped


@part
def _add_node(
    model: Floats, record: Ints, rows: Ints, chances: Floats, node: Int, candidate: Int
) -> None:
    """Make the candidate a node, not expanded yet."""
    this = NODES_AT + NODE_LEN * node
    pooled = record[POOL_AT] + POOLED_LEN * candidate
    record[this + TOKEN] = record[pooled]
    record[this + PARENT] = record[pooled + FOLLOWS]
    record[this + NUM_FOUND] = 0
    record[this + NEXT_COMMON] = -1
    common_rank = np.int64(record[pooled + COMMON_RANK])
    if common_rank > 0:
        record[this + SOURCE] = _source_of_common(model, record, common_rank - 1)
    else:
        record[this + SOURCE] = _source(model, rows, mixing.ROW_LEN * candidate)
    chances[record[POOL_SPACE] + node] = chances[candidate]


@part
def _source(model: Floats, rows: Ints, row: Int) -> Int:
    """Return whose evidence, taken alone, gives the candidate its highest chance."""
    highest = np.float32(-np.inf)
    best = np.int64(0)
    for at in range(row + mixing.ENTRIES, row + mixing.ENTRIES + rows[row + mixing.NUM_ENTRIES]):
        entry = np.int64(rows[at])
        logit = model[mixing.CELL_LOGIT + (entry >> mixing.INPUT_BITS)]
        if logit > highest:
            highest = logit
            best = entry & mixing.INPUT_MASK
    if best == mixing.SUCCESSOR_INPUT:
        return np.int64(SUCCESSORS)
    is_local = best < mixing.NUM_LEVELS or best == mixing.LOCAL_INPUT
    if mixing.RECOVERED_INPUT <= best < mixing.NUM_PLACE_INPUTS:
        is_local = best < mixing.RECOVERED_INPUT + mixing.NUM_RECOVERED
    return np.int64(LOCAL if is_local else NAMESPACE)


@part
def _source_of_common(model: Floats, record: Ints, rank: Int) -> Int:
    at = record[COMMON_AT] + COMMON_LEN * rank
    shared_cell = np.int64(record[at + SHARED_CELL])
    of_local = model[mixing.CELL_LOGIT + record[at + LOCAL_CELL]]
    is_local = shared_cell < 0 or model[mixing.CELL_LOGIT + shared_cell] <= of_local
    return np.int64(LOCAL if is_local else NAMESPACE)


@part
def _correct(model: Floats, record: Ints, chances: Floats, num_nodes: Int) -> None:
    """Replace path chances, which fall, by measured ones, which fall too; note their steps."""
    limit: Real = np.float32(1.0)
    pool = np.int64(record[POOL_SPACE])
    for node in range(1, num_nodes + 1):
        step, measured = mixing.correct_path(model, chances[pool + node])
        record[NODES_AT + NODE_LEN * node + STEP] = step
        limit = min(limit, measured)
        chances[pool + node] = limit


@part
def _write_tree(record: Ints, scratch: Ints, start: Int, num_nodes: Int) -> None:
    """Write the nodes' tokens, then their parents, -1 for the root, then their sources."""
    for node in range(num_nodes):
        at = NODES_AT + NODE_LEN * (node + 1)
        scratch[start + node] = record[at + TOKEN]
        scratch[start + num_nodes + node] = record[at + PARENT] - 1
        scratch[start + 2 * num_nodes + node] = record[at + SOURCE]
