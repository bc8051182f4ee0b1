"""Kernels of the suffix trie: a ring of tokens and, per context length, chains of equal contexts.

One int32 array holds a whole trie: a header, the ring, per token its links, and the heads of the
chains. Positions count tokens since the trie was made; a slot is the position modulo the capacity.
Links and heads hold a position plus one, so that zeroed memory is an empty trie.
"""

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.compile import Index, Int, kernel, part

Arena = NDArray[np.int32]

# Header fields, then the ring, the links, the heads, the tallies and the most frequent tokens.
CAPACITY, HEAD, TAIL, NUM_HEADS, NUM_TALLIES = 0, 1, 2, 3, 4
HEADER_LEN = 8
# Contexts of 1, 2, 4 and 8 tokens have chains; ORDER_AT maps a length to its chain.
NUM_ORDERS = 4
MAX_ORDER = 8
ORDER_AT = np.array([-1, 0, 1, -1, 2, -1, -1, -1, 3], np.int64)
ORDER_LEN = np.array([1, 2, 4, 8, 1 << 30], np.int64)
# Matches are compared no further back than this.
MAX_MATCH_LEN = 32
# Tokens are tallied by hash, unverified; the leaders are the most frequent ones, in order.
NUM_LEADERS = 64
MAX_TALLIES = 1 << 16
BOUNDARY = -1
# Odd, and negative only because int64 has no more room: Knuth's multiplicative hash.
_GOLDEN = np.int64(-7046029254386353131)
# Of a hash this much is kept, more than there ever are heads.
_HASH_MASK = np.int64(0x7FFFFFFF)


@kernel
def append_tokens(arena: Arena, token_ids: Arena, num_tokens: Int) -> None:
    """Append tokens; every context that ends at one of them can be matched at once."""
    mask = np.int64(arena[CAPACITY]) - 1
    tail = np.int64(arena[TAIL])
    head = np.int64(arena[HEAD])
    for index in range(num_tokens):
        if head - tail > mask:
            _untally(arena, np.int64(arena[HEADER_LEN + (tail & mask)]))
            tail += 1
        token = np.int64(token_ids[index])
        arena[HEADER_LEN + (head & mask)] = token
        _tally(arena, token)
        _link(arena, head, tail)
        head += 1
    arena[HEAD] = head
    arena[TAIL] = tail


@part
def _link(arena: Arena, position: Int, tail: Int) -> None:
    """Put the position in front of the chain of each context that ends there."""
    capacity = np.int64(arena[CAPACITY])
    num_heads = np.int64(arena[NUM_HEADS])
    links = HEADER_LEN + capacity + (position & (capacity - 1)) * NUM_ORDERS
    heads = HEADER_LEN + capacity * (1 + NUM_ORDERS)
    for order in range(NUM_ORDERS):
        arena[links + order] = 0
    mixed = np.int64(0)
    for length in range(1, min(position - tail + 1, np.int64(MAX_ORDER)) + 1):
        token = np.int64(arena[HEADER_LEN + ((position - length + 1) & (capacity - 1))])
        if token < 0:
            return
        mixed = (mixed ^ token) * _GOLDEN
        order = ORDER_AT[length]
        if order >= 0:
            slot = heads + order * num_heads + ((mixed >> 24) & (num_heads - 1))
            arena[links + order] = arena[slot]
            arena[slot] = position + 1


@part
def hash_context(
    tokens: Arena, context: Int, context_len: Int, hashes: Arena, first_hash: Int
) -> Int:
    """Hash the context (latest token first) for each order; return how many orders it fills."""
    mixed = np.int64(0)
    num_orders = np.int64(0)
    for length in range(1, min(context_len, np.int64(MAX_ORDER)) + 1):
        mixed = (mixed ^ np.int64(tokens[context + length - 1])) * _GOLDEN
        if ORDER_AT[length] >= 0:
            hashes[first_hash + num_orders] = (mixed >> 24) & _HASH_MASK
            num_orders += 1
    return num_orders


@part
def match_len(arena: Arena, position: Int, tokens: Arena, context: Int, context_len: Int) -> Int:
    """Count how many tokens up to and with `position` equal the context (latest token first)."""
    mask = np.int64(arena[CAPACITY]) - 1
    most = min(context_len, position - np.int64(arena[TAIL]) + 1)
    for length in range(most):
        known = arena[Index(HEADER_LEN + ((position - length) & mask))]
        if known != tokens[Index(context + length)]:
            return np.int64(length)
    return max(most, np.int64(0))


@part
def chain_start(arena: Arena, order: Int, mixed: Int) -> Int:
    """Return the latest position on the hash's chain; below the tail where there is none."""
    capacity = np.int64(arena[CAPACITY])
    num_heads = np.int64(arena[NUM_HEADS])
    heads = HEADER_LEN + capacity * (1 + NUM_ORDERS)
    return np.int64(arena[Index(heads + order * num_heads + (mixed & (num_heads - 1)))]) - 1


@part
def chain_next(arena: Arena, order: Int, position: Int) -> Int:
    """Return the position before this one on its chain."""
    capacity = np.int64(arena[CAPACITY])
    links = HEADER_LEN + capacity + (position & (capacity - 1)) * NUM_ORDERS
    return np.int64(arena[Index(links + order)]) - 1


@part
def token_after(arena: Arena, position: Int) -> Int:
    """Return the token that followed the position; negative at a run's end."""
    following = np.int64(position) + 1
    if following >= arena[HEAD] or following < arena[TAIL]:
        return BOUNDARY
    return np.int64(arena[Index(HEADER_LEN + (following & (arena[CAPACITY] - 1)))])


@part
def tally_slot(arena: Arena, token: Int) -> Int:
    """Return where the token's tally stands in the arena."""
    num_tallies = np.int64(arena[NUM_TALLIES])
    mixed = (np.int64(token) * _GOLDEN) >> 24
    return len(arena) - NUM_LEADERS - num_tallies + (mixed & (num_tallies - 1))


@part
def _untally(arena: Arena, token: Int) -> None:
    if token >= 0:
        arena[tally_slot(arena, token)] -= 1


@part
def _tally(arena: Arena, token: Int) -> None:
    """Count the token, and move it up among the leaders."""
    if token < 0:
        return
    slot = tally_slot(arena, token)
    arena[slot] += 1
    tally = arena[slot]
    first = len(arena) - NUM_LEADERS
    rank = first + NUM_LEADERS - 1
    last = arena[rank]
    if last > 0 and tally <= arena[tally_slot(arena, last - 1)] and last != token + 1:
        return
    for index in range(first, first + NUM_LEADERS):
        if arena[index] == token + 1 or arena[index] == 0:
            rank = index
            break
    while rank > first and arena[tally_slot(arena, arena[rank - 1] - 1)] < tally:
        arena[rank] = arena[rank - 1]
        rank -= 1
    arena[rank] = token + 1


@part
def recency(arena: Arena, token: Int) -> Int:
    """Return how many tokens ago the token was last seen, 0 where never."""
    position = chain_start(arena, 0, ((np.int64(0) ^ token) * _GOLDEN) >> 24)
    if position < arena[TAIL] or token_after(arena, position - 1) != token:
        return 0
    return np.int64(arena[HEAD]) - position
