"""Kernels that gather a node's candidates: what followed its places, and recycled successors."""

import numpy as np

from drafter.kernels import mixing
from drafter.kernels.compile import Index, Int, part
from drafter.kernels.record import (
    FIRST,
    FOLLOWS,
    LATEST,
    MAX_CANDIDATES,
    NOBODY,
    NODE_LEN,
    NODES_AT,
    NUM_FOUND,
    NUM_POOLED,
    NUM_SLOTS,
    OWN,
    PLACES,
    PLACES_LEN,
    POOL_AT,
    POOL_SPACE,
    POOLED_LEN,
    RANKS,
    RECOVERED,
    TOKEN,
    TOTALS,
    WHOSE,
    Ints,
)
from drafter.kernels.trie import (
    CAPACITY,
    HEAD,
    HEADER_LEN,
    MAX_MATCH_LEN,
    Arena,
    token_after,
)

# Where a successor row stands: the token times this, shifted right by that.
SUCCESSOR_MIX, SUCCESSOR_SHIFT = -7046029254386353131, 24
LEVEL_OF = np.array(
    [0, 0, 1, 2, 3, 3, 4, 4, 4] + [5] * 7 + [6] * 16 + [7], np.int64
)  # by match length, up to MAX_MATCH_LEN
RECOVERED_LEVEL_OF = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.int64)  # by the level of a match


@part
def find_candidates(
    local: Arena,
    shared: Arena,
    successors: Ints,
    record: Ints,
    scratch: Ints,
    node: Int,
    num_places: Int,
) -> Int:
    """Pool the tokens that follow the node's places, and count who says so at which level."""
    first = np.int64(record[NUM_POOLED])
    this = NODES_AT + NODE_LEN * node
    num_found: Int = np.int64(0)
    for index in range(OWN):
        scratch[Index(index)] = 0
    for index in range(OWN + NUM_SLOTS * NOBODY, RANKS):
        scratch[Index(index)] = 0
    start = PLACES + PLACES_LEN * node
    for place in range(start, start + 2 * num_places, 2):
        position = np.int64(scratch[Index(place)])
        kind = np.int64(scratch[Index(place + 1)])
        following = token_after(shared, position) if kind & 1 else token_after(local, position)
        if following >= 0:
            which = _candidate(record, scratch, node, first, num_found, following)
            num_found = max(num_found, which + 1)
            _count(scratch, kind, position, which)
    num_found = _recycle(local, successors, record, scratch, node, first, num_found)
    record[this + FIRST] = first
    record[this + NUM_FOUND] = num_found
    record[NUM_POOLED] = first + num_found
    return num_found


@part
def _count(scratch: Ints, kind: Int, position: Int, which: Int) -> None:
    """Count one place for its candidate; -1 for one that found no room."""
    level = LEVEL_OF[Index(min(kind >> 2, np.int64(MAX_MATCH_LEN)))]
    slot = (kind & 1) * mixing.NUM_LEVELS + level
    if kind & RECOVERED:
        level = RECOVERED_LEVEL_OF[Index(level)]
        slot = mixing.RECOVERED_INPUT + (kind & 1) * mixing.NUM_RECOVERED + level
    scratch[Index(TOTALS + slot)] += 1
    if position >= scratch[Index(LATEST + slot)]:
        scratch[Index(LATEST + slot)] = position
        scratch[Index(WHOSE + slot)] = which
    if which >= 0:
        scratch[Index(OWN + NUM_SLOTS * which + slot)] += 1


@part
def _candidate(
    record: Ints, scratch: Ints, node: Int, first: Int, num_found: Int, token: Int
) -> Int:
    """Return the index of the node's candidate with this token, adding it; -1 where full."""
    at = record[POOL_AT] + POOLED_LEN * first
    for index in range(num_found):
        if record[Index(at + POOLED_LEN * index)] == token:
            return np.int64(index)
    if num_found >= MAX_CANDIDATES or first + num_found >= record[POOL_SPACE]:
        return np.int64(-1)
    record[Index(at + POOLED_LEN * num_found)] = token
    record[Index(at + POOLED_LEN * num_found + FOLLOWS)] = node
    own = OWN + NUM_SLOTS * num_found
    for index in range(own, own + NUM_SLOTS):
        scratch[Index(index)] = 0
    return num_found


@part
def _recycle(
    local: Arena,
    successors: Ints,
    record: Ints,
    scratch: Ints,
    node: Int,
    first: Int,
    found: Int,
) -> Int:
    """Add the successors last seen after the node's token; note each candidate's rank in them."""
    num_found = found
    token: Int = np.int64(record[NODES_AT + NODE_LEN * node + TOKEN])
    if node == 0:
        token = last_token(local)
    row = successor_row(successors, token)
    known = row > 0 and successors[row] == token
    for index in range(RANKS, RANKS + MAX_CANDIDATES + 1):
        scratch[index] = mixing.SUCCESSOR_RANKS if known else -1
    if not known:
        return num_found
    for rank in range(mixing.SUCCESSOR_RANKS):
        following = np.int64(successors[row + 1 + rank])
        if following < 0:
            break
        which = _candidate(record, scratch, node, first, num_found, following)
        if which < 0:
            break
        num_found = max(num_found, which + 1)
        scratch[RANKS + which] = rank
    return num_found


@part
def last_token(local: Arena) -> Int:
    """Return the last token of the sequence."""
    return np.int64(local[HEADER_LEN + ((local[HEAD] - 1) & (local[CAPACITY] - 1))])


@part
def successor_row(successors: Ints, token: Int) -> Int:
    """Return where the row of the token stands or would stand; 0 where there is no table."""
    num_rows = np.int64(successors[0])
    if num_rows == 0 or token < 0:
        return np.int64(0)
    mixed = (token * np.int64(SUCCESSOR_MIX)) >> SUCCESSOR_SHIFT
    return 1 + (mixed & (num_rows - 1)) * (mixing.SUCCESSOR_RANKS + 1)
