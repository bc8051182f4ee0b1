"""Kernels that turn counts at a node into evidence: a row per candidate, and its chance."""

import numpy as np

from drafter.kernels import mixing
from drafter.kernels.compile import Index, Int, Real, part
from drafter.kernels.record import (
    COMMON_RANK,
    LATEST,
    LISTED,
    LISTED_BEFORE,
    NOBODY,
    NUM_POOLED,
    NUM_SLOTS,
    OWN,
    POOL_AT,
    POOL_SPACE,
    POOLED_LEN,
    RANKS,
    TOTALS,
    WHOSE,
    Floats,
    Ints,
)
from drafter.kernels.trie import HEAD, TAIL, Arena, recency, tally_slot

COUNT_OF = np.array([0, 1, 2, 3, 4, 4] + [5] * 4 + [6] * 6 + [7] * 62, np.int64)
_NUM_LEVELS = mixing.NUM_LEVELS
# The first slots of the places recovered behind a replaced token.
_LOCAL_RECOVERED = mixing.RECOVERED_INPUT
_SHARED_RECOVERED = mixing.RECOVERED_INPUT + mixing.NUM_RECOVERED
# Where the slots of each source of places begin.
_NUM_PLACE_SOURCES = 4
_FIRST_SLOTS = np.array([0, _NUM_LEVELS, _LOCAL_RECOVERED, _SHARED_RECOVERED, NUM_SLOTS], np.int64)
# What the namespace's level is counted by among the weight sets.
_SHARED_LEVELS = mixing.NUM_LEVELS + 2


@part
def score(
    local: Arena,
    shared: Arena,
    model: Floats,
    record: Ints,
    scratch: Ints,
    rows: Ints,
    chances: Floats,
    node: Int,
    num_found: Int,
    hit_rate: Int,
) -> None:
    """Write each candidate's row of evidence and its path chance, and the node's own row."""
    empty = is_empty(shared)
    local_level = _sum_up(scratch, np.int64(0), np.int64(_NUM_LEVELS))
    shared_level = _sum_up(scratch, np.int64(_NUM_LEVELS), np.int64(_LOCAL_RECOVERED))
    _sum_up(scratch, np.int64(_LOCAL_RECOVERED), np.int64(_SHARED_RECOVERED))
    _sum_up(scratch, np.int64(_SHARED_RECOVERED), np.int64(NUM_SLOTS))
    _list_levels(scratch)
    if empty:
        shared_level = np.int64(mixing.EMPTY_LEVEL)
    node_set = local_level * _SHARED_LEVELS + shared_level
    node_row = mixing.ROW_LEN * (record[POOL_SPACE] + node)
    _describe(scratch, rows, node_row, np.int64(NOBODY), node_set, empty, hit_rate)
    put_common(rows, node_row, np.int64(0), np.int64(-1 if empty else 0))
    first = np.int64(record[NUM_POOLED]) - num_found
    total: Real = 0.0
    for index in range(num_found):
        row = mixing.ROW_LEN * (first + index)
        pooled = record[POOL_AT] + POOLED_LEN * (first + index)
        token = np.int64(record[pooled])
        record[pooled + COMMON_RANK] = 0
        _describe(scratch, rows, row, np.int64(index), node_set, empty, hit_rate)
        if rows[row + mixing.NUM_PLACED] >= 0:
            put_common(rows, row, local_cell(local, token), shared_cell(shared, token))
        value = mixing.chance(model, rows, row)
        rows[row + mixing.IS_UNLIKELY] = value < mixing.UNLIKELY
        chances[first + index] = value
        total += value
    path_chance = chances[record[POOL_SPACE] + node]
    scale = np.float64(path_chance * np.float32(0.999)) / max(total, 1.0)
    for index in range(first, first + num_found):
        chances[index] = np.float64(chances[index]) * scale


@part
def is_empty(arena: Arena) -> bool:
    """Whether the trie holds nothing at all."""
    return bool(arena[HEAD] == arena[TAIL])


@part
def _sum_up(scratch: Ints, first: Int, stop: Int) -> Int:
    """Add each level's counts to the levels below it, but leave levels that add nothing at zero.

    Returns the longest match's level plus one.
    """
    top: Int = np.int64(0)
    seen = np.int64(0)
    newest, newest_whose = np.int64(-1), np.int64(-1)
    for slot in range(stop - 1, first - 1, -1):
        if scratch[Index(TOTALS + slot)] > 0:
            top = max(top, slot - first + 1)
            seen += scratch[Index(TOTALS + slot)]
            scratch[Index(TOTALS + slot)] = seen
            if scratch[Index(LATEST + slot)] > newest:
                newest = np.int64(scratch[Index(LATEST + slot)])
                newest_whose = np.int64(scratch[Index(WHOSE + slot)])
            scratch[Index(WHOSE + slot)] = newest_whose
    return top


@part
def _list_levels(scratch: Ints) -> None:
    """List the slots that hold counts, and how many do before each source."""
    number = np.int64(0)
    for source in range(_NUM_PLACE_SOURCES):
        scratch[LISTED_BEFORE + source] = number
        for slot in range(_FIRST_SLOTS[source], _FIRST_SLOTS[source + 1]):
            if scratch[Index(TOTALS + slot)] > 0:
                scratch[Index(LISTED + number)] = slot
                number += 1
    scratch[LISTED_BEFORE + _NUM_PLACE_SOURCES] = number


@part
def _describe(
    scratch: Ints, rows: Ints, row: Int, which: Int, node_set: Int, empty: bool, hit_rate: Int
) -> None:
    """Turn a candidate's counts into its row: an entry per level, weight sets and bins."""
    local_top = _place_entries(scratch, rows, row, which, np.int64(0))
    shared_top = _place_entries(scratch, rows, row, which, np.int64(1))
    of_local = _place_entries(scratch, rows, row, which, np.int64(2))
    of_shared = _place_entries(scratch, rows, row, which, np.int64(3))
    recovered_top = max(of_local, of_shared)
    num_placed = np.int64(scratch[LISTED_BEFORE + _NUM_PLACE_SOURCES])
    rows[row + mixing.NUM_PLACED] = num_placed
    best = max(local_top, shared_top)
    rank = np.int64(scratch[RANKS + which])
    if best == 0 and recovered_top == 0 and 0 <= rank < mixing.SUCCESSOR_RANKS:
        _describe_recycled(rows, row, rank, node_set, hit_rate)
        return
    at = row + mixing.ENTRIES + num_placed + (1 if empty else 2)
    rows[at] = _entry(np.int64(mixing.SUCCESSOR_INPUT), mixing.SUCCESSOR_CELL + rank)
    rows[row + mixing.NUM_ENTRIES] = at - row - mixing.ENTRIES + (1 if rank >= 0 else 0)
    held = (1 if local_top > 0 else 0) + (2 if shared_top > 0 else 0) + (4 if empty else 0)
    if empty:
        shared_top = np.int64(mixing.EMPTY_LEVEL)
    own_set = mixing.NUM_SELECTED + local_top * _SHARED_LEVELS + shared_top
    hit_rate_set = mixing.HIT_RATE_SET + hit_rate * (_NUM_LEVELS + 1) + best
    bins = held * (_NUM_LEVELS + 1) + best
    if best == 0 and recovered_top > 0:
        own_set = mixing.RECOVERED_SET + recovered_top - 1
        bins = (mixing.NUM_CLASSES - 2) * (_NUM_LEVELS + 1) + recovered_top
    _choose(rows, row, node_set, own_set, hit_rate_set, bins)


@part
def _place_entries(scratch: Ints, rows: Ints, row: Int, which: Int, source: Int) -> Int:
    """Write the entries of a source of places; return the candidate's top level plus one."""
    top: Int = np.int64(0)
    agreeing = np.int64(0)
    own = OWN + NUM_SLOTS * which
    first = np.int64(scratch[LISTED_BEFORE + source])
    for index in range(np.int64(scratch[LISTED_BEFORE + source + 1]) - 1, first - 1, -1):
        slot = np.int64(scratch[Index(LISTED + index)])
        count = np.int64(scratch[Index(own + slot)])
        if count > 0:
            agreeing += count
            top = max(top, slot - _FIRST_SLOTS[source] + 1)
        cell = slot * 2 + (1 if scratch[Index(WHOSE + slot)] == which else 0)
        cell = (cell * mixing.NUM_COUNTS + COUNT_OF[Index(agreeing)]) * mixing.NUM_COUNTS
        cell += COUNT_OF[Index(scratch[Index(TOTALS + slot)])]
        rows[Index(row + mixing.ENTRIES + index)] = _entry(slot, cell)
    return top


@part
def _entry(index: Int, cell: Int) -> Int:
    return (cell << mixing.INPUT_BITS) + index


@part
def _describe_recycled(rows: Ints, row: Int, rank: Int, node_set: Int, hit_rate: Int) -> None:
    """Leave a candidate that only the successors hold with their evidence alone."""
    level = node_set // _SHARED_LEVELS
    shared_level = node_set % _SHARED_LEVELS
    if mixing.EMPTY_LEVEL > shared_level > level:
        level = shared_level
    rows[row + mixing.NUM_PLACED] = -1
    rows[row + mixing.NUM_ENTRIES] = 1
    rows[row + mixing.ENTRIES] = _entry(
        np.int64(mixing.SUCCESSOR_INPUT), mixing.SUCCESSOR_CELL + rank
    )
    bins = (mixing.NUM_CLASSES - 1) * (_NUM_LEVELS + 1) + level
    hit_rate_set = mixing.RECYCLED_HIT_RATE_SET + hit_rate
    _choose(rows, row, mixing.RECYCLED_SET + level, np.int64(mixing.UNUSED_SET), hit_rate_set, bins)


@part
def _choose(rows: Ints, row: Int, first: Int, second: Int, third: Int, bins: Int) -> None:
    """Note where the row's weight sets and bins stand in the model."""
    rows[row + mixing.FIRST_SET] = mixing.WEIGHT + first * mixing.NUM_INPUTS
    rows[row + mixing.SECOND_SET] = mixing.WEIGHT + second * mixing.NUM_INPUTS
    rows[row + mixing.THIRD_SET] = mixing.WEIGHT + third * mixing.NUM_INPUTS
    rows[row + mixing.BINS] = mixing.BIN_CHANCE + bins * mixing.NUM_BUCKETS


@part
def put_common(rows: Ints, row: Int, of_local: Int, of_shared: Int) -> None:
    """Write the entries that tell how common the token is, behind those of its places."""
    at = row + mixing.ENTRIES + rows[row + mixing.NUM_PLACED]
    rows[at] = _entry(np.int64(mixing.LOCAL_INPUT), of_local)
    if of_shared >= 0:
        rows[at + 1] = _entry(np.int64(mixing.SHARED_INPUT), of_shared)


@part
def _log2(value: Real) -> Int:
    """Return the whole part of the logarithm of a number from 1 up: its exponent."""
    return (np.float64(value).view(np.int64) >> 52) - 1023


@part
def _share(arena: Arena, token: Int) -> Int:
    """Class the token's share of the trie: 0 for unseen, then from the half down by halves."""
    tally = np.float64(arena[tally_slot(arena, token)])
    if tally <= 0.0:
        return np.int64(0)
    held = np.float64(arena[HEAD] - arena[TAIL])
    return min(_log2(max(held / tally, 1.0)) + 1, np.int64(mixing.NUM_SHARES - 1))


@part
def local_cell(local: Arena, token: Int) -> Int:
    """Return the cell of the token's share of the sequence and of how lately it was seen."""
    ago = _log2(max(np.float64(recency(local, token)), 1.0)) >> 1
    recent = min(ago, np.int64(mixing.NUM_RECENCIES - 1))
    return mixing.LOCAL_CELL + _share(local, token) * mixing.NUM_RECENCIES + recent


@part
def shared_cell(shared: Arena, token: Int) -> Int:
    """Return the cell of the token's share of the namespace; -1 where that is empty."""
    if is_empty(shared):
        return np.int64(-1)
    return mixing.SHARED_CELL + _share(shared, token)
