"""Kernels of the calibration: evidence about a candidate in, the chance that it is accepted out.

Each piece of evidence is a cell with a measured acceptance. The cells' log-odds are mixed with
weights learned online (logistic mixing, as the PAQ family of compressors does), and a last table
sets the mixed chance right per source and match length. One float32 array holds it all.
"""

import math

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import Int, Real, kernel

Model = NDArray[np.float32]
Row = NDArray[np.int16]

# Match lengths fall into levels: 1, 2, 3, 4-5, 6-8, 9-15, 16-31, 32 and more.
NUM_LEVELS = 8
NUM_SOURCES = 2
# A cell per source, level, "the latest occurrence says so", occurrences that agree, occurrences.
NUM_COUNTS = 8
NUM_EVIDENCE_CELLS = NUM_SOURCES * NUM_LEVELS * 2 * NUM_COUNTS * NUM_COUNTS
# And a cell per rank among the recycled successors; the last is "a row, but not in it".
SUCCESSOR_RANKS = 8
SUCCESSOR_CELL = NUM_EVIDENCE_CELLS
# And, whatever the context, a cell per share of the token among all and per how lately it was seen.
NUM_SHARES = 12
NUM_RECENCIES = 8
LOCAL_CELL = SUCCESSOR_CELL + SUCCESSOR_RANKS + 1
SHARED_CELL = LOCAL_CELL + NUM_SHARES * NUM_RECENCIES
NUM_CELLS = SHARED_CELL + NUM_SHARES
NUM_INPUTS = NUM_SOURCES * NUM_LEVELS + 4
LOCAL_INPUT, SHARED_INPUT = NUM_INPUTS - 4, NUM_INPUTS - 3
SUCCESSOR_INPUT, BIAS_INPUT = NUM_INPUTS - 2, NUM_INPUTS - 1
# Weight sets: by the node's longest matches, and by the candidate's own longest matches.
# Where the namespace has learned nothing at all, its level is one more: that is another world.
EMPTY_LEVEL = NUM_LEVELS + 1
NUM_SELECTED = (NUM_LEVELS + 1) * (NUM_LEVELS + 2)
# And by how often the sequence's first choices came true lately, and the candidate's match.
NUM_LUCKS = 6
LUCK_SET = 2 * NUM_SELECTED
# What only the recycled successors hold is weighed apart, by the node's longest match and by luck:
# recorded text has none to fit the other weights to.
RECYCLED_SET = LUCK_SET + NUM_LUCKS * (NUM_LEVELS + 1)
RECYCLED_LUCK_SET = RECYCLED_SET + NUM_LEVELS + 1
UNUSED_SET = RECYCLED_LUCK_SET + NUM_LUCKS
NUM_SETS = UNUSED_SET + 1
NUM_WEIGHTS = NUM_SETS * NUM_INPUTS
# Next table: who holds the candidate (nobody, local, shared, both; nobody or local beside an empty
# shared one; successors only), its longest match, log-odds.
NUM_CLASSES = 7
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

# A candidate's row: the cell of each input (-1 where it has none), its weight sets, the bin row.
FIRST_SET, SECOND_SET, THIRD_SET, BIN_ROW = range(NUM_INPUTS, NUM_INPUTS + 4)
ROW_LEN = NUM_INPUTS + 4

MAX_WEIGHT = np.float32(8.0)
_BIAS = 0.4
_MAX_LOGIT = 8.0
_BIN_WEIGHT = 0.7
_RATE = 0.008
_SURE = 0.002
_CELL_MEMORY = 255.0
_BIN_MEMORY = 400.0
_STEP_MEMORY = 2000.0


@kernel
def mixed_logit(model: Model, row: Row) -> Real:
    """Add up the weighted log-odds of a candidate's evidence."""
    first = WEIGHT + np.int64(row[FIRST_SET]) * NUM_INPUTS
    second = WEIGHT + np.int64(row[SECOND_SET]) * NUM_INPUTS
    third = WEIGHT + np.int64(row[THIRD_SET]) * NUM_INPUTS
    logit = _BIAS * (
        model[first + BIAS_INPUT] + model[second + BIAS_INPUT] + model[third + BIAS_INPUT]
    )
    for index in range(BIAS_INPUT):
        cell = np.int64(row[index])
        if cell >= 0:
            weight = model[first + index] + model[second + index] + model[third + index]
            logit += weight * model[CELL_LOGIT + cell]
    if logit > _MAX_LOGIT:
        return _MAX_LOGIT
    return logit if logit > -_MAX_LOGIT else -_MAX_LOGIT


@kernel
def chance(model: Model, row: Row) -> Real:
    """Return the calibrated chance that a candidate is accepted where its parent is."""
    logit = mixed_logit(model, row)
    mixed = 1.0 / (1.0 + math.exp(-logit))
    at = (logit + _MAX_LOGIT) * ((NUM_BUCKETS - 1) / (2.0 * _MAX_LOGIT))
    low = np.int64(at)
    if low > NUM_BUCKETS - 2:
        low = np.int64(NUM_BUCKETS - 2)
    share = at - low
    bin_index = BIN_CHANCE + np.int64(row[BIN_ROW]) * NUM_BUCKETS + low
    measured = model[bin_index] * (1.0 - share) + model[bin_index + 1] * share
    return (1.0 - _BIN_WEIGHT) * mixed + _BIN_WEIGHT * np.float64(measured)


@kernel
def learn_outcome(model: Model, row: Row, accepted: Real) -> None:
    """Learn whether a candidate whose parent was accepted was accepted too."""
    logit = mixed_logit(model, row)
    error = np.float64(accepted - 1.0 / (1.0 + math.exp(-logit)))
    _learn_bin(model, row, logit, accepted)
    first = WEIGHT + np.int64(row[FIRST_SET]) * NUM_INPUTS
    second = WEIGHT + np.int64(row[SECOND_SET]) * NUM_INPUTS
    third = WEIGHT + np.int64(row[THIRD_SET]) * NUM_INPUTS
    step = np.float32(_RATE * error)
    if abs(error) < _SURE:
        # Nothing to learn from, and weights that grow for ever to say so still louder.
        step = np.float32(0.0)
    for index in range(BIAS_INPUT):
        cell = np.int64(row[index])
        if cell >= 0:
            change = step * model[CELL_LOGIT + cell]
            model[first + index] = _bounded(model[first + index] + change)
            model[second + index] = _bounded(model[second + index] + change)
            model[third + index] = _bounded(model[third + index] + change)
            _learn_cell(model, cell, accepted)
    model[first + BIAS_INPUT] += step * np.float32(_BIAS)
    model[second + BIAS_INPUT] += step * np.float32(_BIAS)
    model[third + BIAS_INPUT] += step * np.float32(_BIAS)


@kernel
def _bounded(weight: Real) -> Real:
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)


@kernel
def _learn_cell(model: Model, cell: Int, accepted: Real) -> None:
    count = min(model[CELL_COUNT + cell] + 1.0, _CELL_MEMORY)
    model[CELL_COUNT + cell] = count
    value = model[CELL_CHANCE + cell]
    value += (accepted - value) / (count + 0.5)
    value = min(max(value, 0.0005), 0.9995)
    model[CELL_CHANCE + cell] = value
    model[CELL_LOGIT + cell] = math.log(value / (1.0 - value))


@kernel
def _learn_bin(model: Model, row: Row, logit: Real, accepted: Real) -> None:
    at = (logit + _MAX_LOGIT) * ((NUM_BUCKETS - 1) / (2.0 * _MAX_LOGIT))
    bin_index = np.int64(row[BIN_ROW]) * NUM_BUCKETS + np.int64(at + 0.5)
    count = min(model[BIN_COUNT + bin_index] + 1.0, _BIN_MEMORY)
    model[BIN_COUNT + bin_index] = count
    value = model[BIN_CHANCE + bin_index]
    model[BIN_CHANCE + bin_index] = value + (accepted - value) / (count + 0.5)


@kernel
def path_step(path_chance: Real) -> Real:
    """Return where a path's chance stands among the steps, a whole number and a share."""
    inside = min(max(np.float64(path_chance), 0.0004), 0.9996)
    return (math.log(inside / (1.0 - inside)) + _MAX_LOGIT) * ((NUM_STEPS - 1) / (2 * _MAX_LOGIT))


@kernel
def correct_paths(model: Model, steps: NDArray[np.int32], chances: Model, number: Int) -> None:
    """Replace path chances, which fall, by measured ones, which fall too; note their steps."""
    limit = np.float32(1.0)
    for index in range(number):
        at = path_step(chances[index])
        low = min(np.int64(at), np.int64(NUM_STEPS - 2))
        share = np.float32(at - low)
        steps[index] = low + (1 if share >= 0.5 else 0)
        low += STEP_CHANCE
        measured = model[low] * (np.float32(1.0) - share) + model[low + 1] * share
        limit = min(limit, measured)
        chances[index] = limit


@kernel
def learn_path(model: Model, step: Int, accepted: Real) -> None:
    """Learn whether a verified node lay on the emitted path."""
    count = min(model[STEP_COUNT + step] + 1.0, _STEP_MEMORY)
    model[STEP_COUNT + step] = count
    value = model[STEP_CHANCE + step]
    model[STEP_CHANCE + step] = value + (accepted - value) / (count + 0.5)
