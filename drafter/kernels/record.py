"""Where things stand in the flat arrays of a draft: plain offsets, which compile and run fastest.

The record keeps a draft until the model has judged it; the scratch is shared by all sequences.
"""

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.mixing import NUM_PLACE_INPUTS, ROW_LEN
from drafter.kernels.trie import MAX_MATCH_LEN, NUM_ORDERS

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

MAX_NODES = 1024
MAX_CANDIDATES = 16
# Average candidates kept per node; the pool is this long per node asked for.
POOL_PER_NODE = 8
# Frequent tokens that may follow anything: ranked once per draft, tried one after the other.
MAX_COMMON = 80

# The record begins with sizes, where the pool and the common tokens begin, and a running state.
NUM_NODES, NUM_POOLED, NODE_SPACE, POOL_SPACE, NUM_COMMON, TURN, HIT_RATE, POOL_AT, COMMON_AT = (
    range(9)
)
NODES_AT = 16
# Per node; next to try among the common tokens, -1 where the node was not expanded.
TOKEN, PARENT, FIRST, NUM_FOUND, NEXT_COMMON, STEP, SOURCE, NUM_PLACES = range(8)
NODE_LEN = 8
# Per candidate in the pool: its token, the node it follows; for a common token, its rank plus one.
FOLLOWS, COMMON_RANK = 1, 2
POOLED_LEN = 3
# Per common token: itself and its two cells.
LOCAL_CELL, SHARED_CELL = 1, 2
COMMON_LEN = 3

# The scratch: what is counted at one node, its context, common tokens unsorted, then per node its
# places (position; match length, whether recovered, and source), then the heap.
NUM_SLOTS = NUM_PLACE_INPUTS
TOTALS, LATEST, WHOSE, OWN = 0, NUM_SLOTS, 2 * NUM_SLOTS, 3 * NUM_SLOTS
NOBODY = MAX_CANDIDATES
RANKS = OWN + NUM_SLOTS * (MAX_CANDIDATES + 1)
# Slots that hold counts, and how many do before each source of places.
LISTED = RANKS + MAX_CANDIDATES + 1
LISTED_BEFORE = LISTED + NUM_SLOTS
CONTEXT = LISTED_BEFORE + 5
HASHES = CONTEXT + MAX_MATCH_LEN
GATHERED = HASHES + NUM_ORDERS
PLACES = GATHERED + COMMON_LEN * MAX_COMMON
MAX_OCCURRENCES = 76
PLACES_LEN = 2 * MAX_OCCURRENCES
# Marks, in a place's kind, that the context goes on there only behind a replaced token.
RECOVERED = 2

# Marks, in a node's step, that the node lies on the emitted path.
ON_PATH = 1 << 16
# The hit rate of a sequence whose first choices always come true; it forgets in some 20 tokens.
FULL_HIT_RATE = 1 << 12


def new_record(max_nodes: int, hit_rate: int) -> Ints:
    """Return an empty record with room for that many nodes."""
    pool_at = NODES_AT + NODE_LEN * (max_nodes + 1)
    common_at = pool_at + POOLED_LEN * pool_space(max_nodes)
    record = np.zeros(common_at + COMMON_LEN * MAX_COMMON, np.int32)
    record[NODE_SPACE], record[POOL_SPACE] = max_nodes + 1, pool_space(max_nodes)
    record[POOL_AT], record[COMMON_AT] = pool_at, common_at
    record[HIT_RATE] = hit_rate
    record[NODES_AT + NEXT_COMMON] = -1
    return record


def new_rows(max_nodes: int) -> Ints:
    """Return the rows of evidence of each candidate and, behind, of each node."""
    return np.zeros(ROW_LEN * (pool_space(max_nodes) + max_nodes + 1), np.int32)


def new_scratch(max_nodes: int) -> Ints:
    """Return the scratch of a draft of that many nodes."""
    return np.zeros(PLACES + PLACES_LEN * (max_nodes + 1) + pool_space(max_nodes), np.int32)


def new_chances(max_nodes: int) -> Floats:
    """Return path chances of each candidate and, behind, of each node."""
    return np.zeros(pool_space(max_nodes) + max_nodes + 1, np.float32)


def pool_space(max_nodes: int) -> int:
    """Return how many candidates a draft of that many nodes may weigh."""
    return (max_nodes + 2) * POOL_PER_NODE
