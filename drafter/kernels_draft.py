"""Kernels of the draft: one best-first expansion over the occurrences of the context in two tries.

A node is the set of places in the local and the namespace trie where its path has been seen before.
What follows those places are its candidates; a deep node looks its own last tokens up again.
"""

import math

import numpy as np
from numpy.typing import NDArray

from drafter import kernels_mixing as mixing
from drafter.kernels import Int, Real, kernel
from drafter.kernels_trie import (
    CAPACITY,
    HEAD,
    HEADER_LEN,
    MAX_MATCH_LEN,
    NUM_LEADERS,
    NUM_ORDERS,
    ORDER_LEN,
    TAIL,
    Arena,
    append_tokens,
    chain_next,
    chain_start,
    hash_context,
    match_len,
    recency,
    tally_slot,
    token_after,
)

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

MAX_NODES = 1024
# Occurrences of one node, and how many each chain may give at the root and below it.
MAX_OCCURRENCES = 64
_ROOT_PER_SOURCE = 28
_DEEP_PER_SOURCE = 8
_DEEP_ORDERS = 2
_ENOUGH_OCCURRENCES = 12
MAX_CANDIDATES = 16
# Frequent tokens that may follow anything: ranked once per draft, tried one after the other.
MAX_COMMON = 80
_MAX_LOCAL_COMMON = 40
_COMMON_STRIDE = 4
# Marks, in a node's step, that the node lies on the emitted path.
_ON_PATH = 1 << 16
# A sequence whose first choices always come true has this luck; it forgets within some 20 tokens.
FULL_LUCK = 1 << 12
_LUCK_SHIFT = 4
# Where in `counts` the candidates' own counts and their ranks among the successors begin.
_OWN = 48
_NOBODY = MAX_CANDIDATES
_RANKS = _OWN + 16 * (MAX_CANDIDATES + 1)
# Average candidates kept per node; the pool is this long per node asked for.
POOL_PER_NODE = 8

# The record of the last draft, which observe learns from: sizes, then per node, then per candidate,
# then the common tokens. A row of evidence belongs to each candidate and, behind, to each node.
NUM_NODES, NUM_POOLED, NODE_SPACE, POOL_SPACE, NUM_COMMON, TURN, LUCK = 0, 1, 2, 3, 4, 5, 6
RECORD_HEADER_LEN = 8
# Per node: token, parent, first candidate, candidates, next common token, step and source.
NODE_FIELDS = 7
SOURCE = 6
# Whose evidence a node rests on, numbered as on the wire.
LOCAL, NAMESPACE, SUCCESSORS = 1, 2, 3

LEVEL_OF = np.array(
    [0, 0, 1, 2, 3, 3, 4, 4, 4] + [5] * 7 + [6] * 16 + [7], np.int64
)  # by match length, up to MAX_MATCH_LEN
COUNT_OF = np.array([0, 1, 2, 3, 4, 4] + [5] * 4 + [6] * 6 + [7] * 60, np.int64)


def record_len(num_nodes: int) -> int:
    """Return how many ints the record of a draft of that many nodes takes."""
    return (
        RECORD_HEADER_LEN
        + NODE_FIELDS * (num_nodes + 1)
        + 3 * (num_nodes + 2) * POOL_PER_NODE
        + 6 * MAX_COMMON
    )


def scratch_len(num_nodes: int) -> int:
    """Return how many ints of scratch a draft of that many nodes takes."""
    occurrences = 2 * (num_nodes + 1) * MAX_OCCURRENCES
    return occurrences + 2 * (num_nodes + 1) + (num_nodes + 2) * POOL_PER_NODE + 4096


@kernel
def propose(
    local: Arena,
    shared: Arena,
    successors: Ints,
    model: Floats,
    record: Ints,
    rows: NDArray[np.int16],
    scratch: Ints,
    chances: Floats,
    max_nodes: Int,
    floor: Real,
) -> Int:
    """Grow the draft tree into the record, most probable node first; return its number of nodes.

    `chances` receives the path probability of each candidate and, after the pool, of each node;
    a candidate below `floor` is not drafted.
    """
    record[NUM_NODES] = 0
    record[NUM_POOLED] = 0
    space = np.int64(record[NODE_SPACE])
    pool = np.int64(record[POOL_SPACE])
    nodes, pooled, common = _parts(record)
    places = scratch[: 2 * space * MAX_OCCURRENCES].reshape((2, space, MAX_OCCURRENCES))
    rest = scratch[2 * space * MAX_OCCURRENCES :]
    place_counts, heap, counts = rest[:space], rest[space : space + pool], rest[space + pool :]
    _rank_common(local, shared, model, record, common, chances)
    luck = np.int64(record[LUCK]) * mixing.NUM_LUCKS // (FULL_LUCK + 1)
    num_heaped: Int = np.int64(0)
    num_nodes = np.int64(0)
    path_chance = np.float32(1.0)
    while num_nodes < max_nodes:
        num_places = _find_places(local, shared, nodes, places, place_counts, num_nodes)
        place_counts[num_nodes] = num_places
        first = np.int64(record[NUM_POOLED])
        num_found = _find_candidates(
            local, shared, successors, nodes, pooled, places, counts, num_nodes, num_places, first
        )
        nodes[2, num_nodes] = first
        nodes[3, num_nodes] = num_found
        nodes[4, num_nodes] = 0
        record[NUM_POOLED] = first + num_found
        node_row = rows[pool + num_nodes]
        _score(
            local,
            shared,
            model,
            rows,
            node_row,
            counts,
            pooled,
            chances,
            first,
            num_found,
            path_chance,
            luck,
        )
        for index in range(first, first + num_found):
            if chances[index] >= floor:
                _push(heap, chances, num_heaped, index)
                num_heaped += 1
        num_heaped = _push_common(
            model,
            record,
            nodes,
            pooled,
            common,
            node_row,
            heap,
            chances,
            num_heaped,
            num_nodes,
            path_chance,
            floor,
        )
        if num_heaped == 0:
            break
        best = _pop(heap, chances, num_heaped)
        num_heaped -= 1
        if pooled[2, best] > 0:
            above = np.int64(pooled[1, best])
            above_chance = np.float32(1.0)
            if above > 0:
                above_chance = chances[pool + above]
            num_heaped = _push_common(
                model,
                record,
                nodes,
                pooled,
                common,
                rows[pool + above],
                heap,
                chances,
                num_heaped,
                above,
                above_chance,
                floor,
            )
        num_nodes += 1
        path_chance = chances[best]
        nodes[0, num_nodes] = pooled[0, best]
        nodes[1, num_nodes] = pooled[1, best]
        nodes[3, num_nodes] = 0
        nodes[4, num_nodes] = -1
        nodes[SOURCE, num_nodes] = _source(model, rows[best], common, pooled[2, best])
        chances[pool + num_nodes] = path_chance
    record[NUM_NODES] = num_nodes
    mixing.correct_paths(model, nodes[5, 1:], chances[pool + 1 :], num_nodes)
    return num_nodes


@kernel
def _find_places(
    local: Arena, shared: Arena, nodes: Ints, places: Ints, place_counts: Ints, node: Int
) -> Int:
    """Collect where the node's context was seen before: (position, match length and source)."""
    num_places: Int = 0
    found = places[:, node]
    if node > 0:
        num_places = _inherit_places(local, shared, nodes, places, place_counts, node)
        if num_places >= _ENOUGH_OCCURRENCES:
            return num_places
    context = np.empty(MAX_MATCH_LEN, np.int32)
    context_len = _fill_context(local, nodes, node, context)
    hashes = np.empty(NUM_ORDERS, np.int64)
    num_orders = hash_context(context, context_len, hashes)
    limit = _ROOT_PER_SOURCE
    if node > 0:
        limit = _DEEP_PER_SOURCE
        num_orders = min(num_orders, _DEEP_ORDERS)
    for source in range(2):
        arena = local if source == 0 else shared
        stop = min(num_places + limit, MAX_OCCURRENCES)
        for order in range(num_orders - 1, -1, -1):
            num_places = _walk_chain(
                arena, order, hashes[order], context[:context_len], found, num_places, stop, source
            )
    return num_places


@kernel
def _inherit_places(
    local: Arena, shared: Arena, nodes: Ints, places: Ints, place_counts: Ints, node: Int
) -> Int:
    """Keep the parent's places that go on with the node's token, one token further."""
    parent = np.int64(nodes[1, node])
    token = nodes[0, node]
    num_places = 0
    for index in range(place_counts[parent]):
        position = places[0, parent, index]
        kind = places[1, parent, index]
        arena = shared if kind & 1 else local
        if token_after(arena, position) == token:
            places[0, node, num_places] = position + 1
            places[1, node, num_places] = kind + 2
            num_places += 1
    return num_places


@kernel
def _fill_context(local: Arena, nodes: Ints, node: Int, context: Ints) -> Int:
    """Write the node's last tokens, latest first: its path, then the committed tokens."""
    length = 0
    while node > 0 and length < MAX_MATCH_LEN:
        context[length] = nodes[0, node]
        length += 1
        node = np.int64(nodes[1, node])
    mask = np.int64(local[CAPACITY]) - 1
    position = np.int64(local[HEAD]) - 1
    while length < MAX_MATCH_LEN and position >= local[TAIL]:
        token = local[HEADER_LEN + (position & mask)]
        if token < 0:
            break
        context[length] = token
        length += 1
        position -= 1
    return length


@kernel
def _walk_chain(
    arena: Arena,
    order: Int,
    mixed: Int,
    context: Ints,
    found: Ints,
    num_places: Int,
    stop: Int,
    source: Int,
) -> Int:
    """Add the chain's places, latest first, that really match and are not yet there."""
    position = chain_start(arena, order, mixed)
    tail = np.int64(arena[TAIL])
    steps = 2 * (stop - num_places)
    while position >= tail and steps > 0 and num_places < stop:
        steps -= 1
        length = match_len(arena, position, context, len(context))
        known = length < ORDER_LEN[order] or token_after(arena, position) < 0
        if not known and not _is_among(found, num_places, position, source):
            found[0, num_places] = position
            found[1, num_places] = 2 * length + source
            num_places += 1
        position = chain_next(arena, order, position)
    return num_places


@kernel
def _is_among(found: Ints, num_places: Int, position: Int, source: Int) -> bool:
    for index in range(num_places):
        if found[0, index] == position and found[1, index] & 1 == source:
            return True
    return False


@kernel
def _find_candidates(
    local: Arena,
    shared: Arena,
    successors: Ints,
    nodes: Ints,
    pooled: Ints,
    places: Ints,
    counts: Ints,
    node: Int,
    num_places: Int,
    first: Int,
) -> Int:
    """Pool the tokens that follow the node's places, and count who says so at which level.

    `counts`: per candidate [source, level], then the same for all, the latest position and whose.
    """
    most = min(MAX_CANDIDATES, pooled.shape[1] - first)
    num_found: Int = 0
    counts[:_OWN] = 0
    counts[_OWN + 16 * _NOBODY : _RANKS] = 0
    for index in range(num_places):
        position = np.int64(places[0, node, index])
        kind = np.int64(places[1, node, index])
        source = kind & 1
        token = token_after(shared if source else local, position)
        if token < 0:
            continue
        slot = source * mixing.NUM_LEVELS + LEVEL_OF[min(kind >> 1, np.int64(MAX_MATCH_LEN))]
        which = _candidate(pooled, counts, first, num_found, most, token, node)
        counts[slot] += 1
        if which == num_found:
            num_found += 1
        if position >= counts[16 + slot]:
            counts[16 + slot] = position
            counts[32 + slot] = which
        if which >= 0:
            counts[_OWN + 16 * which + slot] += 1
    return _recycle(local, successors, nodes, pooled, counts, node, num_found, most, first)


@kernel
def _candidate(
    pooled: Ints, counts: Ints, first: Int, num_found: Int, most: Int, token: Int, node: Int
) -> Int:
    """Return the index of the node's candidate with this token, adding it; -1 where full."""
    for index in range(num_found):
        if pooled[0, first + index] == token:
            return index
    if num_found >= most:
        return -1
    pooled[0, first + num_found] = token
    pooled[1, first + num_found] = node
    counts[_OWN + 16 * num_found : _OWN + 16 * num_found + 16] = 0
    return num_found


@kernel
def _recycle(
    local: Arena,
    successors: Ints,
    nodes: Ints,
    pooled: Ints,
    counts: Ints,
    node: Int,
    num_found: Int,
    most: Int,
    first: Int,
) -> Int:
    """Add the successors last seen after the node's token; note each candidate's rank in them."""
    ranks = counts[_RANKS:]
    token = np.int64(nodes[0, node])
    if node == 0:
        token = np.int64(local[HEADER_LEN + ((local[HEAD] - 1) & (local[CAPACITY] - 1))])
    row = successor_row(successors, token)
    known = row > 0 and successors[row] == token
    ranks[: MAX_CANDIDATES + 1] = mixing.SUCCESSOR_RANKS if known else -1
    if not known:
        return num_found
    for rank in range(mixing.SUCCESSOR_RANKS):
        following = np.int64(successors[row + 1 + rank])
        if following < 0:
            break
        which = _candidate(pooled, counts, first, num_found, most, following, node)
        if which < 0:
            break
        if which == num_found:
            num_found += 1
        ranks[which] = rank
    return num_found


@kernel
def successor_row(successors: Ints, token: Int) -> Int:
    """Return where the row of the token stands or would stand; 0 where there is no table."""
    num_rows = np.int64(successors[0])
    if num_rows == 0 or token < 0:
        return 0
    mixed = (token * np.int64(-7046029254386353131)) >> 24
    return 1 + (mixed & (num_rows - 1)) * (mixing.SUCCESSOR_RANKS + 1)


@kernel
def _score(
    local: Arena,
    shared: Arena,
    model: Floats,
    rows: NDArray[np.int16],
    node_row: NDArray[np.int16],
    counts: Ints,
    pooled: Ints,
    chances: Floats,
    first: Int,
    num_found: Int,
    path_chance: Real,
    luck: Int,
) -> None:
    """Write each candidate's row of evidence and its path probability, and the node's own row."""
    tops = np.empty(2, np.int64)
    _sum_up(counts[0:16], counts[16:32], counts[32:48], tops)
    empty = shared[HEAD] == shared[TAIL]
    if empty:
        tops[1] = mixing.EMPTY_LEVEL
    node_set = tops[0] * (mixing.NUM_LEVELS + 2) + tops[1]
    _describe(node_row, counts, _NOBODY, node_set, empty, luck)
    total = np.float32(0.0)
    for index in range(num_found):
        row = rows[first + index]
        token = pooled[0, first + index]
        pooled[2, first + index] = 0
        row[mixing.LOCAL_INPUT] = _local_cell(local, token)
        row[mixing.SHARED_INPUT] = _shared_cell(shared, token)
        _describe(row, counts, index, node_set, empty, luck)
        value = mixing.chance(model, row)
        chances[first + index] = value
        total += value
    scale = path_chance * np.float32(0.999) / max(total, np.float32(1.0))
    for index in range(first, first + num_found):
        chances[index] *= scale


@kernel
def _log2(value: Real) -> Int:
    """Return the whole part of the logarithm of a number from 1 up."""
    return np.int64(math.frexp(value)[1]) - 1


@kernel
def _share(arena: Arena, token: Int) -> Int:
    """Class the token's share of the trie: 0 for unseen, then from the half down by halves."""
    tally = np.float64(arena[tally_slot(arena, token)])
    if tally <= 0.0:
        return np.int64(0)
    held = np.float64(arena[HEAD] - arena[TAIL])
    return min(_log2(max(held / tally, 1.0)) + 1, np.int64(mixing.NUM_SHARES - 1))


@kernel
def _local_cell(local: Arena, token: Int) -> Int:
    ago = min(
        _log2(max(np.float64(recency(local, token)), 1.0)) >> 1, np.int64(mixing.NUM_RECENCIES - 1)
    )
    return mixing.LOCAL_CELL + _share(local, token) * mixing.NUM_RECENCIES + ago


@kernel
def _shared_cell(shared: Arena, token: Int) -> Int:
    if shared[HEAD] == shared[TAIL]:
        return np.int64(-1)
    return mixing.SHARED_CELL + _share(shared, token)


@kernel
def _rank_common(
    local: Arena, shared: Arena, model: Floats, record: Ints, common: Ints, order: Floats
) -> None:
    """Rank the leaders of both tries by how often such tokens came: token and cells, in order."""
    number = np.int64(0)
    for source in range(2):
        arena = local if source == 0 else shared
        stop = MAX_COMMON if source else _MAX_LOCAL_COMMON
        for index in range(len(arena) - NUM_LEADERS, len(arena)):
            token = np.int64(arena[index]) - 1
            if token < 0 or number >= stop:
                break
            if source == 0 or not _is_common(common, number, token):
                common[3, number] = token
                first = _local_cell(local, token)
                second = _shared_cell(shared, token)
                common[4, number] = first
                common[5, number] = second
                order[number] = _common_logit(model, first, second)
                number += 1
    record[NUM_COMMON] = number
    _sort_common(common, order, number)


@kernel
def _is_common(common: Ints, number: Int, token: Int) -> bool:
    found = False
    for index in range(number):
        found |= common[3, index] == token
    return found


@kernel
def _sort_common(common: Ints, order: Floats, number: Int) -> None:
    """Write the gathered tokens in falling order; they come nearly sorted from each trie."""
    for index in range(number):
        value = order[index]
        token, first, second = common[3, index], common[4, index], common[5, index]
        at = index
        while at > 0 and order[at - 1] < value:
            order[at] = order[at - 1]
            common[0, at] = common[0, at - 1]
            common[1, at] = common[1, at - 1]
            common[2, at] = common[2, at - 1]
            at -= 1
        order[at] = value
        common[0, at] = token
        common[1, at] = first
        common[2, at] = second


@kernel
def _common_logit(model: Floats, first: Int, second: Int) -> Real:
    logit = model[mixing.CELL_LOGIT + first]
    if second >= 0:
        logit += model[mixing.CELL_LOGIT + second]
    return np.float64(logit)


@kernel
def _push_common(
    model: Floats,
    record: Ints,
    nodes: Ints,
    pooled: Ints,
    common: Ints,
    node_row: NDArray[np.int16],
    heap: Ints,
    chances: Floats,
    num_heaped: Int,
    node: Int,
    path_chance: Real,
    floor: Real,
) -> Int:
    """Put the node's next common token on the heap, if it is worth it and not yet a candidate."""
    at = np.int64(record[NUM_POOLED])
    rank = np.int64(nodes[4, node])
    while rank < record[NUM_COMMON] and _is_candidate(nodes, pooled, node, common[0, rank]):
        rank += 1
    nodes[4, node] = rank + 1
    if rank >= record[NUM_COMMON] or at >= pooled.shape[1]:
        return num_heaped
    node_row[mixing.LOCAL_INPUT] = common[1, rank]
    node_row[mixing.SHARED_INPUT] = common[2, rank]
    value = path_chance * mixing.chance(model, node_row)
    if value < floor:
        return num_heaped
    pooled[0, at] = common[0, rank]
    pooled[1, at] = node
    pooled[2, at] = rank + 1
    chances[at] = value
    record[NUM_POOLED] = at + 1
    _push(heap, chances, num_heaped, at)
    return num_heaped + 1


@kernel
def _is_candidate(nodes: Ints, pooled: Ints, node: Int, token: Int) -> bool:
    first = np.int64(nodes[2, node])
    found = False
    for index in range(first, first + nodes[3, node]):
        found |= pooled[0, index] == token
    return found


@kernel
def _parts(record: Ints) -> tuple[Ints, Ints, Ints]:
    """Cut the record: nodes (see NODE_FIELDS), pool and common.

    Pooled are token, node it follows and, for a common token, its rank plus one.
    """
    space = np.int64(record[NODE_SPACE])
    pool = np.int64(record[POOL_SPACE])
    pool_start = RECORD_HEADER_LEN + NODE_FIELDS * space
    common_start = pool_start + 3 * pool
    return (
        record[RECORD_HEADER_LEN:pool_start].reshape((NODE_FIELDS, space)),
        record[pool_start:common_start].reshape((3, pool)),
        record[common_start : common_start + 6 * MAX_COMMON].reshape((6, MAX_COMMON)),
    )


@kernel
def _sum_up(totals: Ints, latest: Ints, whose: Ints, tops: NDArray[np.int64]) -> None:
    """Add each level's counts to the levels below it; leave levels that add nothing at zero."""
    for source in range(2):
        tops[source] = 0
        seen = 0
        newest = -1
        newest_whose = -1
        for level in range(mixing.NUM_LEVELS - 1, -1, -1):
            slot = source * mixing.NUM_LEVELS + level
            if totals[slot] == 0:
                continue
            tops[source] = max(tops[source], level + 1)
            seen += totals[slot]
            totals[slot] = seen
            if latest[slot] > newest:
                newest = latest[slot]
                newest_whose = whose[slot]
            whose[slot] = newest_whose


@kernel
def _describe(
    row: NDArray[np.int16], counts: Ints, which: Int, node_set: Int, empty: bool, luck: Int
) -> None:
    """Turn a candidate's counts into its row: a cell per input, two weight sets and a bin."""
    tops = np.zeros(2, np.int64)
    own = counts[_OWN + 16 * which : _OWN + 16 * which + 16]
    for source in range(2):
        agreeing = 0
        for level in range(mixing.NUM_LEVELS - 1, -1, -1):
            slot = source * mixing.NUM_LEVELS + level
            total = counts[slot]
            row[slot] = -1
            if total == 0:
                continue
            agreeing += own[slot]
            if own[slot] > 0:
                tops[source] = max(tops[source], level + 1)
            cell = slot * 2 + (1 if counts[32 + slot] == which else 0)
            cell = (cell * mixing.NUM_COUNTS + COUNT_OF[agreeing]) * mixing.NUM_COUNTS
            row[slot] = cell + COUNT_OF[total]
    rank = counts[_RANKS + which]
    row[mixing.SUCCESSOR_INPUT] = -1 if rank < 0 else mixing.SUCCESSOR_CELL + rank
    row[mixing.BIAS_INPUT] = -1
    row[mixing.FIRST_SET] = node_set
    held = (1 if tops[0] else 0) + (2 if tops[1] else 0) + (4 if empty else 0)
    best = max(tops[0], tops[1])
    row[mixing.BIN_ROW] = held * (mixing.NUM_LEVELS + 1) + best
    if empty:
        tops[1] = mixing.EMPTY_LEVEL
    row[mixing.SECOND_SET] = mixing.NUM_SELECTED + tops[0] * (mixing.NUM_LEVELS + 2) + tops[1]
    row[mixing.THIRD_SET] = mixing.LUCK_SET + luck * (mixing.NUM_LEVELS + 1) + best
    if best == 0 and 0 <= rank < mixing.SUCCESSOR_RANKS:
        _describe_recycled(row, node_set, luck)


@kernel
def _describe_recycled(row: NDArray[np.int16], node_set: Int, luck: Int) -> None:
    """Leave a candidate that only the successors hold with their evidence alone."""
    level = np.int64(node_set) // (mixing.NUM_LEVELS + 2)
    shared_level = np.int64(node_set) % (mixing.NUM_LEVELS + 2)
    if mixing.EMPTY_LEVEL > shared_level > level:
        level = shared_level
    row[: mixing.SUCCESSOR_INPUT] = -1
    row[mixing.FIRST_SET] = mixing.RECYCLED_SET + level
    row[mixing.SECOND_SET] = mixing.UNUSED_SET
    row[mixing.THIRD_SET] = mixing.RECYCLED_LUCK_SET + luck
    row[mixing.BIN_ROW] = (mixing.NUM_CLASSES - 1) * (mixing.NUM_LEVELS + 1) + level


@kernel
def _source(model: Floats, row: NDArray[np.int16], common: Ints, common_rank: Int) -> Int:
    """Return whose evidence, taken alone, gives the candidate its highest chance."""
    if common_rank > 0:
        shared_cell = common[2, common_rank - 1]
        own = model[mixing.CELL_LOGIT + common[1, common_rank - 1]]
        known = shared_cell >= 0 and model[mixing.CELL_LOGIT + shared_cell] > own
        return NAMESPACE if known else LOCAL
    highest = np.float32(-np.inf)
    best = 0
    for index in range(mixing.BIAS_INPUT):
        if row[index] >= 0 and model[mixing.CELL_LOGIT + row[index]] > highest:
            highest = model[mixing.CELL_LOGIT + row[index]]
            best = index
    if best == mixing.SUCCESSOR_INPUT:
        return SUCCESSORS
    is_local = best < mixing.NUM_LEVELS or best == mixing.LOCAL_INPUT
    return LOCAL if is_local else NAMESPACE


@kernel
def _push(heap: Ints, chances: Floats, size: Int, candidate: Int) -> None:
    value = chances[candidate]
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if chances[heap[above]] >= value:
            break
        heap[at] = heap[above]
        at = above
    heap[at] = candidate


@kernel
def _pop(heap: Ints, chances: Floats, size: Int) -> Int:
    best = np.int64(heap[0])
    last = heap[size - 1]
    size -= 1
    value = chances[last]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and chances[heap[below + 1]] > chances[heap[below]]:
            below += 1
        if chances[heap[below]] <= value:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = last
    return best


@kernel
def observe(
    local: Arena,
    model: Floats,
    record: Ints,
    rows: NDArray[np.int16],
    token_ids: Ints,
    num_tokens: Int,
    num_verified: Int,
) -> Int:
    """Learn from what was emitted how true the last draft was, then append it to the local trie.

    The model chose every emitted token itself, so each tests all candidates of the node it follows,
    drafted or verified or not; what hangs below a rejected node stays untested. Returns how many of
    the verified nodes lie on the emitted path.
    """
    accepted = 0
    pool = np.int64(record[POOL_SPACE])
    nodes, pooled, _ = _parts(record)
    node: Int = np.int64(0)
    num_nodes = np.int64(record[NUM_NODES])
    for index in range(num_tokens):
        token = token_ids[index]
        first = np.int64(nodes[2, node])
        for candidate in range(first, first + nodes[3, node]):
            hit = 1.0 if pooled[0, candidate] == token else 0.0
            mixing.learn_outcome(model, rows[candidate], hit)
        _learn_common(model, record, rows[pool + node], node, token)
        record[LUCK] = _luck(np.int64(record[LUCK]), nodes, num_nodes, node, token)
        node = _child(nodes, num_nodes, node, token)
        if node == 0:
            break
        nodes[5, node] |= _ON_PATH
        accepted += 1 if node <= num_verified else 0
    for index in range(1, num_verified + 1):
        step = nodes[5, index]
        on_path = 1.0 if step & _ON_PATH else 0.0
        mixing.learn_path(model, step & (_ON_PATH - 1), on_path)
    record[NUM_NODES] = 0
    record[NUM_COMMON] = 0
    record[TURN] += 1
    nodes[3, 0] = 0
    nodes[4, 0] = -1
    append_tokens(local, token_ids, num_tokens)
    return accepted


@kernel
def keep_successors(
    local: Arena, successors: Ints, token_ids: Ints, following: Ints, num_tokens: Int
) -> None:
    """Keep the model's next tokens per row under the token before it; call before observe."""
    token = np.int64(local[HEADER_LEN + ((local[HEAD] - 1) & (local[CAPACITY] - 1))])
    for index in range(num_tokens):
        row = successor_row(successors, token)
        if row > 0 and following[index, 0] >= 0:
            successors[row] = token
            successors[row + 1 : row + 1 + mixing.SUCCESSOR_RANKS] = following[index]
        token = np.int64(token_ids[index])


@kernel
def _luck(luck: Int, nodes: Ints, num_nodes: Int, node: Int, token: Int) -> Int:
    """Return the sequence's luck after a token: was it the node's first choice?"""
    for index in range(node + 1, num_nodes + 1):
        if nodes[1, index] == node:
            target = FULL_LUCK if nodes[0, index] == token else 0
            return luck + ((target - luck) >> _LUCK_SHIFT)
    return luck


@kernel
def _child(nodes: Ints, num_nodes: Int, node: Int, token: Int) -> Int:
    """Return the drafted child with this token, 0 where there is none."""
    for index in range(node + 1, num_nodes + 1):
        if nodes[1, index] == node and nodes[0, index] == token:
            return np.int64(index)
    return np.int64(0)


@kernel
def _learn_common(
    model: Floats, record: Ints, node_row: NDArray[np.int16], node: Int, token: Int
) -> None:
    """Learn how common tokens fared at an expanded node; by turns, for there are many."""
    nodes, pooled, common = _parts(record)
    if nodes[4, node] < 0:
        return
    start = (record[TURN] + node) % _COMMON_STRIDE
    for rank in range(start, record[NUM_COMMON], _COMMON_STRIDE):
        if not _is_candidate(nodes, pooled, node, common[0, rank]):
            node_row[mixing.LOCAL_INPUT] = common[1, rank]
            node_row[mixing.SHARED_INPUT] = common[2, rank]
            hit = 1.0 if common[0, rank] == token else 0.0
            mixing.learn_outcome(model, node_row, hit)
