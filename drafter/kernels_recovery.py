"""Kernels that take a copy up again behind a token that the model chose instead of its next one."""

import numpy as np

from drafter.kernels import Int, part
from drafter.kernels_record import (
    CONTEXT,
    HASHES,
    MAX_OCCURRENCES,
    PLACES,
    RECOVERED,
    Ints,
)
from drafter.kernels_trie import (
    ORDER_LEN,
    TAIL,
    Arena,
    chain_next,
    chain_start,
    hash_context,
    match_len,
    token_after,
)

# Where this many last tokens were seen before, nothing needs to be recovered.
_ENOUGH_LEN = 6
_PER_SOURCE = 6
_MAX_STEPS = 12


@part
def recover_places(
    local: Arena, shared: Arena, scratch: Ints, context_len: Int, num_places: Int
) -> Int:
    """Add to the root the places of its context without the last token, one token further.

    There stands what followed the replaced token. Returns at how many places the root now is.
    """
    if context_len < 3 or _longest(scratch, num_places) >= _ENOUGH_LEN:
        return num_places
    num_orders = hash_context(scratch, CONTEXT + 1, context_len - 1, scratch, HASHES)
    num_places = _walk_chains(local, scratch, context_len, num_orders, num_places, np.int64(0))
    return _walk_chains(shared, scratch, context_len, num_orders, num_places, np.int64(1))


@part
def _longest(scratch: Ints, num_places: Int) -> Int:
    longest = np.int64(0)
    for place in range(PLACES, PLACES + 2 * num_places, 2):
        longest = max(longest, np.int64(scratch[place + 1]) >> 2)
    return longest


@part
def _walk_chains(
    arena: Arena,
    scratch: Ints,
    context_len: Int,
    num_orders: Int,
    num_places: Int,
    source: Int,
) -> Int:
    """Add a trie's places, longest contexts first and of each the latest first."""
    stop = min(num_places + _PER_SOURCE, np.int64(MAX_OCCURRENCES))
    tail = np.int64(arena[TAIL])
    for order in range(num_orders - 1, 0, -1):
        position = chain_start(arena, order, np.int64(scratch[HASHES + order]))
        steps = np.int64(_MAX_STEPS)
        while position >= tail and steps > 0 and num_places < stop:
            steps -= 1
            length = match_len(arena, position, scratch, CONTEXT + 1, context_len - 1)
            ends = token_after(arena, position) < 0 or token_after(arena, position + 1) < 0
            known = length < ORDER_LEN[order] or ends
            if not known and not _is_among(scratch, num_places, source, position + 1):
                scratch[PLACES + 2 * num_places] = position + 1
                scratch[PLACES + 2 * num_places + 1] = 4 * length + RECOVERED + source
                num_places += 1
            position = chain_next(arena, order, position)
    return num_places


@part
def _is_among(scratch: Ints, num_places: Int, source: Int, position: Int) -> bool:
    for place in range(PLACES, PLACES + 2 * num_places, 2):
        if scratch[place] == position and scratch[place + 1] & 1 == source:
            return True
    return False
