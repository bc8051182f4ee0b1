"""Kernels of the draft: one best-first expansion over the occurrences of the context in two tries.

A node is the set of places in the local and the namespace trie where its path has been seen before.
What follows those places are its candidates; a deep node looks its own last tokens up again.
"""

import numpy as np
from numpy.typing import NDArray

from drafter import kernels_mixing as mixing
from drafter.kernels import Int, Real, kernel
from drafter.kernels_trie import (
    CAPACITY,
    HEAD,
    HEADER_LEN,
    MAX_MATCH_LEN,
    NUM_ORDERS,
    ORDER_LEN,
    TAIL,
    Arena,
    append_tokens,
    chain_next,
    chain_start,
    hash_context,
    match_len,
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
# Average candidates kept per node; the pool is this long per node asked for.
POOL_PER_NODE = 8

# The record of the last draft, which observe learns from: sizes, then per node, then per candidate.
NUM_NODES, NUM_POOLED, NODE_SPACE, POOL_SPACE = 0, 1, 2, 3
RECORD_HEADER_LEN = 4

LEVEL_OF = np.array(
    [0, 0, 1, 2, 3, 3, 4, 4, 4] + [5] * 7 + [6] * 16 + [7], np.int64
)  # by match length, up to MAX_MATCH_LEN
COUNT_OF = np.array([0, 1, 2, 3, 4, 4] + [5] * 4 + [6] * 6 + [7] * 60, np.int64)


def record_len(num_nodes: int) -> int:
    """Return how many ints the record of a draft of that many nodes takes."""
    return RECORD_HEADER_LEN + 4 * (num_nodes + 1) + 2 * (num_nodes + 2) * POOL_PER_NODE


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
    nodes = record[RECORD_HEADER_LEN : RECORD_HEADER_LEN + 4 * space].reshape((4, space))
    pooled = record[RECORD_HEADER_LEN + 4 * space :].reshape((2, pool))
    places = scratch[: 2 * space * MAX_OCCURRENCES].reshape((2, space, MAX_OCCURRENCES))
    rest = scratch[2 * space * MAX_OCCURRENCES :]
    place_counts, heap, counts = rest[:space], rest[space : space + pool], rest[space + pool :]
    num_heaped = 0
    num_nodes = 0
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
        record[NUM_POOLED] = first + num_found
        _score(model, rows, counts, pooled, chances, first, num_found, path_chance)
        for index in range(first, first + num_found):
            if chances[index] >= floor:
                _push(heap, chances, num_heaped, index)
                num_heaped += 1
        if num_heaped == 0:
            break
        best = _pop(heap, chances, num_heaped)
        num_heaped -= 1
        num_nodes += 1
        pooled_parent = pooled[1, best]
        pooled[1, best] = -num_nodes
        nodes[0, num_nodes] = pooled[0, best]
        nodes[1, num_nodes] = pooled_parent
        nodes[3, num_nodes] = 0
        path_chance = chances[best]
        chances[pool + num_nodes] = path_chance
    record[NUM_NODES] = num_nodes
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
    counts[: 3 * 16] = 0
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
            counts[48 + 16 * which + slot] += 1
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
    counts[48 + 16 * num_found : 64 + 16 * num_found] = 0
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
    ranks = counts[48 + 16 * MAX_CANDIDATES :]
    token = np.int64(nodes[0, node])
    if node == 0:
        token = np.int64(local[HEADER_LEN + ((local[HEAD] - 1) & (local[CAPACITY] - 1))])
    row = successor_row(successors, token)
    known = row > 0 and successors[row] == token
    ranks[:MAX_CANDIDATES] = mixing.SUCCESSOR_RANKS if known else -1
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
    model: Floats,
    rows: NDArray[np.int16],
    counts: Ints,
    pooled: Ints,
    chances: Floats,
    first: Int,
    num_found: Int,
    path_chance: Real,
) -> None:
    """Write each candidate's row of evidence and its path probability."""
    tops = np.empty(2, np.int64)
    _sum_up(counts[0:16], counts[16:32], counts[32:48], tops)
    node_set = tops[0] * (mixing.NUM_LEVELS + 1) + tops[1]
    total = np.float32(0.0)
    for index in range(num_found):
        row = rows[first + index]
        _describe(row, counts, index, node_set)
        value = mixing.chance(model, row)
        chances[first + index] = value
        total += value
    scale = path_chance * np.float32(0.999) / max(total, np.float32(1.0))
    for index in range(first, first + num_found):
        chances[index] *= scale


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
def _describe(row: NDArray[np.int16], counts: Ints, which: Int, node_set: Int) -> None:
    """Turn a candidate's counts into its row: a cell per input, two weight sets and a bin."""
    tops = np.zeros(2, np.int64)
    own = counts[48 + 16 * which : 64 + 16 * which]
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
    rank = counts[48 + 16 * MAX_CANDIDATES + which]
    row[mixing.SUCCESSOR_INPUT] = -1 if rank < 0 else mixing.NUM_EVIDENCE_CELLS + rank
    row[mixing.BIAS_INPUT] = -1
    row[mixing.FIRST_SET] = node_set
    row[mixing.SECOND_SET] = mixing.NUM_SELECTED + tops[0] * (mixing.NUM_LEVELS + 1) + tops[1]
    held = (1 if tops[0] else 0) + (2 if tops[1] else 0)
    row[mixing.BIN_ROW] = held * (mixing.NUM_LEVELS + 1) + max(tops[0], tops[1])


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
    space = np.int64(record[NODE_SPACE])
    pool = np.int64(record[POOL_SPACE])
    nodes = record[RECORD_HEADER_LEN : RECORD_HEADER_LEN + 4 * space].reshape((4, space))
    pooled = record[RECORD_HEADER_LEN + 4 * space :].reshape((2, pool))
    node = np.int64(0)
    for index in range(num_tokens):
        following = np.int64(0)
        first = np.int64(nodes[2, node])
        for candidate in range(first, first + nodes[3, node]):
            hit = pooled[0, candidate] == token_ids[index]
            mixing.learn_outcome(model, rows[candidate], 1.0 if hit else 0.0)
            if hit and pooled[1, candidate] < 0:
                following = -np.int64(pooled[1, candidate])
        node = following
        if node == 0:
            break
        accepted += 1 if node <= num_verified else 0
    record[NUM_NODES] = 0
    nodes[3, 0] = 0
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
