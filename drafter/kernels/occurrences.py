"""Kernels that find where a node's context was seen before: its places in the two tries.

At the root also where the context without its last token was seen: a copy goes on there behind
one token that the model replaced.
"""

import numpy as np

from drafter.kernels.compile import Index, Int, part
from drafter.kernels.record import (
    CONTEXT,
    HASHES,
    MAX_OCCURRENCES,
    NODE_LEN,
    NODES_AT,
    NUM_PLACES,
    PARENT,
    PLACES,
    PLACES_LEN,
    RECOVERED,
    TOKEN,
    Ints,
)
from drafter.kernels.trie import (
    CAPACITY,
    HEAD,
    HEADER_LEN,
    MAX_MATCH_LEN,
    ORDER_LEN,
    TAIL,
    Arena,
    chain_next,
    chain_start,
    hash_context,
    match_len,
    token_after,
)

# How many places each trie may give, at the root and below it.
_ROOT_PER_SOURCE = 28
_DEEP_PER_SOURCE = 8
_DEEP_ORDERS = 2
_ENOUGH = 12
# Where this many last tokens were seen before, nothing needs to be recovered.
_NO_RECOVERY_LEN = 6
_RECOVERED_PER_SOURCE = 6
_MAX_RECOVERY_STEPS = 12


@part
def find_places(local: Arena, shared: Arena, record: Ints, scratch: Ints, node: Int) -> Int:
    """Collect where the node's context was seen before; return at how many places."""
    num_places: Int = np.int64(0)
    limit = np.int64(_ROOT_PER_SOURCE)
    if node > 0:
        num_places = _inherit_places(local, shared, record, scratch, node)
        limit = np.int64(_DEEP_PER_SOURCE)
    if num_places < _ENOUGH:
        context_len = _fill_context(local, record, scratch, node)
        num_orders = hash_context(scratch, CONTEXT, context_len, scratch, HASHES)
        if node > 0 and num_orders > _DEEP_ORDERS:
            num_orders = np.int64(_DEEP_ORDERS)
        num_places = _walk_chains(
            local, scratch, node, context_len, num_orders, num_places, limit, np.int64(0)
        )
        num_places = _walk_chains(
            shared, scratch, node, context_len, num_orders, num_places, limit, np.int64(1)
        )
        if node == 0:
            num_places = recover_places(local, shared, scratch, context_len, num_places)
    record[NODES_AT + NODE_LEN * node + NUM_PLACES] = num_places
    return num_places


@part
def _inherit_places(local: Arena, shared: Arena, record: Ints, scratch: Ints, node: Int) -> Int:
    """Keep the parent's places that go on with the node's token, one token further."""
    this = NODES_AT + NODE_LEN * node
    token = np.int64(record[this + TOKEN])
    parent = np.int64(record[this + PARENT])
    start = PLACES + PLACES_LEN * parent
    at = PLACES + PLACES_LEN * node
    num_places = np.int64(0)
    for old in range(start, start + 2 * record[NODES_AT + NODE_LEN * parent + NUM_PLACES], 2):
        position = np.int64(scratch[Index(old)])
        kind = np.int64(scratch[Index(old + 1)])
        following = token_after(shared, position) if kind & 1 else token_after(local, position)
        if following == token:
            scratch[Index(at + 2 * num_places)] = position + 1
            scratch[Index(at + 2 * num_places + 1)] = kind + 4
            num_places += 1
    return num_places


@part
def _fill_context(local: Arena, record: Ints, scratch: Ints, node: Int) -> Int:
    """Write the node's last tokens, latest first: its path, then the committed tokens."""
    length = np.int64(0)
    above = np.int64(node)
    while above > 0 and length < MAX_MATCH_LEN:
        scratch[CONTEXT + length] = record[NODES_AT + NODE_LEN * above + TOKEN]
        length += 1
        above = np.int64(record[NODES_AT + NODE_LEN * above + PARENT])
    mask = np.int64(local[CAPACITY]) - 1
    position = np.int64(local[HEAD]) - 1
    tail = np.int64(local[TAIL])
    while length < MAX_MATCH_LEN and position >= tail:
        token = local[HEADER_LEN + (position & mask)]
        if token < 0:
            break
        scratch[CONTEXT + length] = token
        length += 1
        position -= 1
    return length


@part
def _walk_chains(
    arena: Arena,
    scratch: Ints,
    node: Int,
    context_len: Int,
    num_orders: Int,
    num_places: Int,
    limit: Int,
    source: Int,
) -> Int:
    """Add a trie's places, longest contexts first and of each the latest first."""
    stop = min(num_places + limit, np.int64(MAX_OCCURRENCES))
    at = PLACES + PLACES_LEN * node
    tail = np.int64(arena[TAIL])
    for order in range(num_orders - 1, -1, -1):
        position = chain_start(arena, order, np.int64(scratch[HASHES + order]))
        steps = 2 * (stop - num_places)
        while position >= tail and steps > 0 and num_places < stop:
            steps -= 1
            length = match_len(arena, position, scratch, CONTEXT, context_len)
            known = length < ORDER_LEN[order] or token_after(arena, position) < 0
            if not known and not _is_among(scratch, at, num_places, source, position):
                scratch[Index(at + 2 * num_places)] = position
                scratch[Index(at + 2 * num_places + 1)] = 4 * length + source
                num_places += 1
            position = chain_next(arena, order, position)
    return num_places


@part
def _is_among(scratch: Ints, at: Int, num_places: Int, kind: Int, position: Int) -> bool:
    for place in range(at, at + 2 * num_places, 2):
        if scratch[Index(place)] == position and (scratch[Index(place + 1)] ^ kind) & 1 == 0:
            return True
    return False


@part
def recover_places(
    local: Arena, shared: Arena, scratch: Ints, context_len: Int, num_places: Int
) -> Int:
    """Add to the root the places of its context without the last token, one token further.

    There stands what followed the replaced token. Returns at how many places the root now is.
    """
    if context_len < 3 or _longest(scratch, num_places) >= _NO_RECOVERY_LEN:
        return num_places
    num_orders = hash_context(scratch, CONTEXT + 1, context_len - 1, scratch, HASHES)
    num_places = _walk_shifted(local, scratch, context_len, num_orders, num_places, np.int64(0))
    return _walk_shifted(shared, scratch, context_len, num_orders, num_places, np.int64(1))


@part
def _longest(scratch: Ints, num_places: Int) -> Int:
    longest = np.int64(0)
    for place in range(PLACES, PLACES + 2 * num_places, 2):
        longest = max(longest, np.int64(scratch[place + 1]) >> 2)
    return longest


@part
def _walk_shifted(
    arena: Arena,
    scratch: Ints,
    context_len: Int,
    num_orders: Int,
    num_places: Int,
    source: Int,
) -> Int:
    """As `_walk_chains`, for the context without its last token: places one token further on."""
    stop = min(num_places + _RECOVERED_PER_SOURCE, np.int64(MAX_OCCURRENCES))
    tail = np.int64(arena[TAIL])
    for order in range(num_orders - 1, 0, -1):
        position = chain_start(arena, order, np.int64(scratch[HASHES + order]))
        steps = np.int64(_MAX_RECOVERY_STEPS)
        while position >= tail and steps > 0 and num_places < stop:
            steps -= 1
            length = match_len(arena, position, scratch, CONTEXT + 1, context_len - 1)
            ends = token_after(arena, position) < 0 or token_after(arena, position + 1) < 0
            known = length < ORDER_LEN[order] or ends
            if not known and not _is_among(
                scratch, np.int64(PLACES), num_places, source, position + 1
            ):
                scratch[PLACES + 2 * num_places] = position + 1
                scratch[PLACES + 2 * num_places + 1] = 4 * length + RECOVERED + source
                num_places += 1
            position = chain_next(arena, order, position)
    return num_places
