"""Kernels of the calibration: evidence about a candidate in, the chance that it is accepted out.

Each piece of evidence is a cell with a measured acceptance. The cells' log-odds are mixed with
weights learned online (logistic mixing, as the PAQ family of compressors does), and a last table
sets the mixed chance right per source and match length. One float32 array holds it all.
"""

import math

import numpy as np
from numpy.typing import NDArray

from drafter.kernels.compile import Index, Int, Real, part

Model = NDArray[np.float32]
Rows = NDArray[np.int32]

# Match lengths fall into levels: 1, 2, 3, 4-5, 6-8, 9-15, 16-31, 32 and more.
NUM_LEVELS = 8
NUM_SOURCES = 2
# Where the last token replaced another one, what matched before it: up to 5, up to 15, and more.
NUM_RECOVERED = 3
RECOVERED_INPUT = NUM_SOURCES * NUM_LEVELS
NUM_PLACE_INPUTS = RECOVERED_INPUT + NUM_SOURCES * NUM_RECOVERED
# A cell per source, level, "the latest occurrence says so", occurrences that agree, occurrences.
NUM_COUNTS = 8
NUM_EVIDENCE_CELLS = NUM_PLACE_INPUTS * 2 * NUM_COUNTS * NUM_COUNTS
# And a cell per rank among the recycled successors; the last is "a row, but not in it".
SUCCESSOR_RANKS = 8
SUCCESSOR_CELL = NUM_EVIDENCE_CELLS
# And, whatever the context, a cell per share of the token among all and per how lately it was seen.
NUM_SHARES = 12
NUM_RECENCIES = 8
LOCAL_CELL = SUCCESSOR_CELL + SUCCESSOR_RANKS + 1
SHARED_CELL = LOCAL_CELL + NUM_SHARES * NUM_RECENCIES
NUM_CELLS = SHARED_CELL + NUM_SHARES
NUM_INPUTS = NUM_PLACE_INPUTS + 4
LOCAL_INPUT, SHARED_INPUT = NUM_INPUTS - 4, NUM_INPUTS - 3
SUCCESSOR_INPUT, BIAS_INPUT = NUM_INPUTS - 2, NUM_INPUTS - 1
# Weight sets: by the node's longest matches, and by the candidate's own longest matches.
# Where the namespace has learned nothing at all, its level is one more: that is another world.
EMPTY_LEVEL = NUM_LEVELS + 1
NUM_SELECTED = (NUM_LEVELS + 1) * (NUM_LEVELS + 2)
# And by how often the sequence's first choices came true lately, and the candidate's match.
NUM_HIT_RATES = 6
HIT_RATE_SET = 2 * NUM_SELECTED
# What only the recycled successors hold is weighed apart, by longest match and by hit rate:
# recorded text has none to fit the other weights to.
RECYCLED_SET = HIT_RATE_SET + NUM_HIT_RATES * (NUM_LEVELS + 1)
RECYCLED_HIT_RATE_SET = RECYCLED_SET + NUM_LEVELS + 1
UNUSED_SET = RECYCLED_HIT_RATE_SET + NUM_HIT_RATES
# And what only recovered places hold, by the length matched before the replaced token.
RECOVERED_SET = UNUSED_SET + 1
NUM_SETS = RECOVERED_SET + NUM_RECOVERED
NUM_WEIGHTS = NUM_SETS * NUM_INPUTS
# Next table: who holds the candidate (nobody, local, shared, both; nobody or local beside an empty
# shared one; recovered places only; successors only), its longest match, log-odds.
NUM_CLASSES = 8
NUM_BUCKETS = 24
NUM_BINS = NUM_CLASSES * (NUM_LEVELS + 1) * NUM_BUCKETS

CELL_CHANCE = 0
CELL_LOGIT = CELL_CHANCE + NUM_CELLS
CELL_COUNT = CELL_LOGIT + NUM_CELLS
WEIGHT = CELL_COUNT + NUM_CELLS
BIN_CHANCE = WEIGHT + NUM_WEIGHTS
BIN_COUNT = BIN_CHANCE + NUM_BINS
# Very last, what whole paths measured: the product of true chances is not quite true, because
# the ranking picks what was overrated. In steps of the path's log-odds; never falling.
NUM_STEPS = 33
STEP_CHANCE = BIN_COUNT + NUM_BINS
STEP_COUNT = STEP_CHANCE + NUM_STEPS
MODEL_LEN = STEP_COUNT + NUM_STEPS

# A candidate's row: where its three weight sets and its bins begin in the model, how many entries
# it has and how many of them come from places, then the entries: cell and input in one number.
# Beside them, whether the candidate was thought unlikely.
FIRST_SET, SECOND_SET, THIRD_SET, BINS, NUM_ENTRIES, NUM_PLACED, IS_UNLIKELY = range(7)
ENTRIES = 7
UNLIKELY = 0.05
ROW_LEN = ENTRIES + NUM_INPUTS - 1
INPUT_BITS = 5
INPUT_MASK = (1 << INPUT_BITS) - 1

MAX_WEIGHT = np.float32(8.0)
_BIAS = 0.4
_MAX_LOGIT = 8.0
_BIN_WEIGHT = 0.7
_RATE = 0.008
_SURE = 0.002
_CELL_MEMORY = 255.0
_BIN_MEMORY = 400.0
_STEP_MEMORY = 2000.0


@part
def mixed_logit(model: Model, rows: Rows, row: Int) -> Real:
    """Add up the weighted log-odds of a candidate's evidence."""
    first = np.int64(rows[row + FIRST_SET])
    second = np.int64(rows[row + SECOND_SET])
    third = np.int64(rows[row + THIRD_SET])
    bias = model[first + BIAS_INPUT] + model[second + BIAS_INPUT] + model[third + BIAS_INPUT]
    logit = _BIAS * np.float64(bias)
    for at in range(row + ENTRIES, row + ENTRIES + rows[row + NUM_ENTRIES]):
        entry = np.int64(rows[Index(at)])
        index = entry & INPUT_MASK
        weight = model[Index(first + index)] + model[Index(second + index)]
        weight += model[Index(third + index)]
        logit += np.float64(weight * model[Index(CELL_LOGIT + (entry >> INPUT_BITS))])
    return float(min(max(logit, -_MAX_LOGIT), _MAX_LOGIT))


@part
def chance(model: Model, rows: Rows, row: Int) -> Real:
    """Return the calibrated chance that a candidate is accepted where its parent is."""
    logit = mixed_logit(model, rows, row)
    mixed = 1.0 / (1.0 + math.exp(-logit))
    at = (logit + _MAX_LOGIT) * ((NUM_BUCKETS - 1) / (2.0 * _MAX_LOGIT))
    low = min(np.int64(at), np.int64(NUM_BUCKETS - 2))
    share = at - np.float64(low)
    bin_at = rows[row + BINS] + low
    below, above = np.float64(model[bin_at]), np.float64(model[bin_at + 1])
    measured = below * (1.0 - share) + above * share
    return (1.0 - _BIN_WEIGHT) * mixed + _BIN_WEIGHT * measured


@part
def learn_outcome(model: Model, rows: Rows, row: Int, accepted: Real, weight: Real) -> None:
    """Learn whether a candidate whose parent was accepted was accepted too, `weight` times."""
    logit = mixed_logit(model, rows, row)
    error = accepted - 1.0 / (1.0 + math.exp(-logit))
    at = (logit + _MAX_LOGIT) * ((NUM_BUCKETS - 1) / (2.0 * _MAX_LOGIT))
    _learn_mean(model, np.int64(rows[row + BINS]) + np.int64(at + 0.5), accepted, weight)
    # Where there is nothing to learn from, weights would grow for ever to say so still louder.
    is_sure = -_SURE < error < _SURE
    step = np.float32(0.0) if is_sure else np.float32(_RATE * weight * error)
    first = np.int64(rows[row + FIRST_SET])
    second = np.int64(rows[row + SECOND_SET])
    third = np.int64(rows[row + THIRD_SET])
    for at_entry in range(row + ENTRIES, row + ENTRIES + rows[row + NUM_ENTRIES]):
        entry = np.int64(rows[at_entry])
        index = entry & INPUT_MASK
        cell = entry >> INPUT_BITS
        change = step * model[CELL_LOGIT + cell]
        _move_weight(model, first + index, change)
        _move_weight(model, second + index, change)
        _move_weight(model, third + index, change)
        _learn_cell(model, cell, accepted, weight)
    change = step * np.float32(_BIAS)
    _move_weight(model, first + BIAS_INPUT, change)
    _move_weight(model, second + BIAS_INPUT, change)
    _move_weight(model, third + BIAS_INPUT, change)


@part
def _move_weight(model: Model, at: Int, change: Real) -> None:
    model[at] = min(max(model[at] + change, -MAX_WEIGHT), MAX_WEIGHT)


@part
def _learn_cell(model: Model, cell: Int, accepted: Real, weight: Real) -> None:
    count = min(np.float64(model[CELL_COUNT + cell]) + weight, _CELL_MEMORY)
    model[CELL_COUNT + cell] = count
    value: Real = np.float64(model[CELL_CHANCE + cell])
    value += weight * (accepted - value) / (count + 0.5)
    value = min(max(value, 0.0005), 0.9995)
    model[CELL_CHANCE + cell] = value
    model[CELL_LOGIT + cell] = math.log(value / (1.0 - value))


@part
def _learn_mean(model: Model, bin_at: Int, accepted: Real, weight: Real) -> None:
    count = min(np.float64(model[bin_at + NUM_BINS]) + weight, _BIN_MEMORY)
    model[bin_at + NUM_BINS] = count
    value = np.float64(model[bin_at])
    model[bin_at] = value + weight * (accepted - value) / (count + 0.5)


@part
def path_step(path_chance: Real) -> Real:
    """Return where a path's chance stands among the steps, a whole number and a share."""
    inside = min(max(np.float64(path_chance), 0.0004), 0.9996)
    return (math.log(inside / (1.0 - inside)) + _MAX_LOGIT) * ((NUM_STEPS - 1) / (2 * _MAX_LOGIT))


@part
def correct_path(model: Model, path_chance: Real) -> tuple[Int, Real]:
    """Return a path's step and its measured chance in place of the product of its nodes'."""
    at = path_step(path_chance)
    low = min(np.int64(at), np.int64(NUM_STEPS - 2))
    share = np.float32(at - np.float64(low))
    step = low + 1 if share >= np.float32(0.5) else low
    below, above = model[STEP_CHANCE + low], model[STEP_CHANCE + low + 1]
    return step, below * (np.float32(1.0) - share) + above * share


@part
def learn_path(model: Model, step: Int, accepted: Real) -> None:
    """Learn whether a verified node lay on the emitted path."""
    count = min(np.float64(model[STEP_COUNT + step]) + 1.0, _STEP_MEMORY)
    model[STEP_COUNT + step] = count
    value = np.float64(model[STEP_CHANCE + step])
    model[STEP_CHANCE + step] = value + (accepted - value) / (count + 0.5)
