"""Kernels of the common tokens: what may follow anything, ranked once and tried one by one."""

import numpy as np

from drafter.kernels import mixing
from drafter.kernels.compile import Int, Real, part
from drafter.kernels.evidence import is_empty, local_cell, put_common, shared_cell
from drafter.kernels.record import (
    COMMON_AT,
    COMMON_LEN,
    COMMON_RANK,
    FIRST,
    FOLLOWS,
    GATHERED,
    LOCAL_CELL,
    MAX_COMMON,
    NEXT_COMMON,
    NODE_LEN,
    NODES_AT,
    NUM_COMMON,
    NUM_FOUND,
    NUM_POOLED,
    POOL_AT,
    POOL_SPACE,
    POOLED_LEN,
    SHARED_CELL,
    TURN,
    Floats,
    Ints,
)
from drafter.kernels.trie import NUM_LEADERS, Arena

_MAX_LOCAL = 40
_TURNS_PER_RANKING = 4
_STRIDE = 16


@part
def rank_common(
    local: Arena, shared: Arena, model: Floats, record: Ints, scratch: Ints, order: Floats
) -> None:
    """Rank the leaders of both tries by how often such tokens came; that changes slowly."""
    if _is_ranked(shared, record):
        return
    number = _gather(local, local, shared, model, scratch, order, np.int64(0), _MAX_LOCAL)
    number = _gather(shared, local, shared, model, scratch, order, number, MAX_COMMON)
    record[NUM_COMMON] = number
    _sort(record, scratch, order, number)


@part
def _is_ranked(shared: Arena, record: Ints) -> bool:
    if record[NUM_COMMON] == 0 or record[TURN] % _TURNS_PER_RANKING == 0:
        return False
    was_empty = record[record[COMMON_AT] + SHARED_CELL] < 0
    return bool(was_empty == is_empty(shared))


@part
def _gather(
    leading: Arena,
    local: Arena,
    shared: Arena,
    model: Floats,
    scratch: Ints,
    order: Floats,
    number: Int,
    stop: Int,
) -> Int:
    """Add a trie's leaders that are not yet gathered; return how many are."""
    num_before = number
    for index in range(len(leading) - NUM_LEADERS, len(leading)):
        token = np.int64(leading[index]) - 1
        if token < 0 or number >= stop:
            break
        if not _is_gathered(scratch, num_before, token):
            at = GATHERED + COMMON_LEN * number
            of_local, of_shared = local_cell(local, token), shared_cell(shared, token)
            scratch[at] = token
            scratch[at + LOCAL_CELL] = of_local
            scratch[at + SHARED_CELL] = of_shared
            order[number] = model[mixing.CELL_LOGIT + of_local]
            if of_shared >= 0:
                order[number] += model[mixing.CELL_LOGIT + of_shared]
            number += 1
    return number


@part
def _is_gathered(scratch: Ints, number: Int, token: Int) -> bool:
    found = False
    for index in range(number):
        found |= scratch[GATHERED + COMMON_LEN * index] == token
    return found


@part
def _sort(record: Ints, scratch: Ints, order: Floats, number: Int) -> None:
    """Write the gathered tokens in falling order; they come nearly sorted from each trie."""
    start = np.int64(record[COMMON_AT])
    for index in range(number):
        value = order[index]
        rank = np.int64(index)
        while rank > 0 and order[rank - 1] < value:
            order[rank] = order[rank - 1]
            _copy(record, start + COMMON_LEN * rank, record, start + COMMON_LEN * (rank - 1))
            rank -= 1
        order[rank] = value
        _copy(record, start + COMMON_LEN * rank, scratch, GATHERED + COMMON_LEN * index)


@part
def _copy(target: Ints, at: Int, origin: Ints, start: Int) -> None:
    for field in range(COMMON_LEN):
        target[at + field] = origin[start + field]


@part
def push_common(
    model: Floats,
    record: Ints,
    scratch: Ints,
    rows: Ints,
    chances: Floats,
    heap: Int,
    num_heaped: Int,
    node: Int,
    floor: Real,
) -> Int:
    """Put the node's next common token on the heap, if it is worth it and not yet a candidate."""
    this = NODES_AT + NODE_LEN * node
    pooled = np.int64(record[NUM_POOLED])
    rank = np.int64(record[this + NEXT_COMMON])
    while rank < record[NUM_COMMON] and _is_candidate(record, node, common_token(record, rank)):
        rank += 1
    record[this + NEXT_COMMON] = rank + 1
    if rank >= record[NUM_COMMON] or pooled >= record[POOL_SPACE]:
        return num_heaped
    row = mixing.ROW_LEN * (record[POOL_SPACE] + node)
    _put(record, rows, row, rank)
    path_chance = np.float64(chances[record[POOL_SPACE] + node])
    value = path_chance * mixing.chance(model, rows, row)
    if value < floor:
        return num_heaped
    at = record[POOL_AT] + POOLED_LEN * pooled
    record[at] = common_token(record, rank)
    record[at + FOLLOWS] = node
    record[at + COMMON_RANK] = rank + 1
    chances[pooled] = value
    record[NUM_POOLED] = pooled + 1
    return push(scratch, heap, chances, num_heaped, pooled)


@part
def common_token(record: Ints, rank: Int) -> Int:
    """Return the common token of that rank."""
    return np.int64(record[record[COMMON_AT] + COMMON_LEN * rank])


@part
def _put(record: Ints, rows: Ints, row: Int, rank: Int) -> None:
    """Make the node's row that of a common token."""
    at = record[COMMON_AT] + COMMON_LEN * rank
    put_common(rows, row, np.int64(record[at + LOCAL_CELL]), np.int64(record[at + SHARED_CELL]))


@part
def _is_candidate(record: Ints, node: Int, token: Int) -> bool:
    this = NODES_AT + NODE_LEN * node
    at = record[POOL_AT] + POOLED_LEN * record[this + FIRST]
    for index in range(record[this + NUM_FOUND]):
        if record[at + POOLED_LEN * index] == token:
            return True
    return False


@part
def learn_common(model: Floats, record: Ints, rows: Ints, node: Int, token: Int) -> None:
    """Learn how common tokens fared at an expanded node; by turns, for there are many."""
    if record[NODES_AT + NODE_LEN * node + NEXT_COMMON] < 0:
        return
    row = mixing.ROW_LEN * (record[POOL_SPACE] + node)
    for rank in range((record[TURN] + node) % _STRIDE, record[NUM_COMMON], _STRIDE):
        common = common_token(record, np.int64(rank))
        if not _is_candidate(record, node, common):
            _put(record, rows, row, np.int64(rank))
            mixing.learn_outcome(model, rows, row, 1.0 if common == token else 0.0, 1.0)


@part
def push(heap: Ints, start: Int, chances: Floats, size: Int, candidate: Int) -> Int:
    """Add a candidate; return the heap's new size."""
    value = chances[candidate]
    at = np.int64(size)
    while at > 0:
        above = (at - 1) >> 1
        if chances[heap[start + above]] >= value:
            break
        heap[start + at] = heap[start + above]
        at = above
    heap[start + at] = candidate
    return size + 1


@part
def pop(heap: Ints, start: Int, chances: Floats, size: Int) -> Int:
    """Take the greatest candidate off; the heap is one smaller afterwards."""
    best = np.int64(heap[start])
    last = np.int64(heap[start + size - 1])
    size -= 1
    value = chances[last]
    at = np.int64(0)
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _is_greater(heap, chances, start + below + 1, start + below):
            below += 1
        if chances[heap[start + below]] <= value:
            break
        heap[start + at] = heap[start + below]
        at = below
    heap[start + at] = last
    return best


@part
def _is_greater(heap: Ints, chances: Floats, first: Int, second: Int) -> bool:
    return bool(chances[heap[first]] > chances[heap[second]])
