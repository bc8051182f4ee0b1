"""The kernels of feedback: what was emitted judges the last draft and moves the sequence on."""

import numpy as np

from drafter.kernels import mixing
from drafter.kernels.candidates import last_token, successor_row
from drafter.kernels.compile import Int, part
from drafter.kernels.draft import forget_draft
from drafter.kernels.frequent import learn_common
from drafter.kernels.record import (
    FIRST,
    FULL_HIT_RATE,
    HIT_RATE,
    NODE_LEN,
    NODES_AT,
    NUM_FOUND,
    NUM_NODES,
    ON_PATH,
    PARENT,
    POOL_AT,
    POOLED_LEN,
    STEP,
    TOKEN,
    TURN,
    Floats,
    Ints,
)
from drafter.kernels.trie import Arena, append_tokens

_HIT_RATE_SHIFT = 4
# Of the many unlikely candidates that come to nothing one in so many is learned, so many times.
_STRIDE = 4


@part
def observe(
    local: Arena,
    model: Floats,
    record: Ints,
    rows: Ints,
    token_ids: Ints,
    num_tokens: Int,
    num_verified: Int,
) -> Int:
    """Learn from what was emitted how true the last draft was, then append it to the local trie.

    The model chose every emitted token itself, so each tests all candidates of the node it follows,
    drafted or verified or not; what hangs below a rejected node stays untested. Returns how many of
    the verified nodes lie on the emitted path.
    """
    accepted = np.int64(0)
    node: Int = np.int64(0)
    for index in range(num_tokens):
        token = np.int64(token_ids[index])
        _learn_candidates(model, record, rows, node, token)
        learn_common(model, record, rows, node, token)
        node = _child(record, node, token)
        if node == 0:
            break
        record[NODES_AT + NODE_LEN * node + STEP] |= ON_PATH
        accepted += 1 if node <= num_verified else 0
    for verified in range(1, num_verified + 1):
        step = np.int64(record[NODES_AT + NODE_LEN * verified + STEP])
        mixing.learn_path(model, step & (ON_PATH - 1), 1.0 if step & ON_PATH else 0.0)
    # What was judged is judged only once.
    forget_draft(record)
    record[TURN] += 1
    append_tokens(local, token_ids, num_tokens)
    return accepted


@part
def _learn_candidates(model: Floats, record: Ints, rows: Ints, node: Int, token: Int) -> None:
    first = np.int64(record[NODES_AT + NODE_LEN * node + FIRST])
    at = record[POOL_AT] + POOLED_LEN * first
    for index in range(record[NODES_AT + NODE_LEN * node + NUM_FOUND]):
        row = mixing.ROW_LEN * (first + index)
        hit, weight = 1.0, 1.0
        if record[at + POOLED_LEN * index] != token:
            hit = 0.0
            if rows[row + mixing.IS_UNLIKELY]:
                if (record[TURN] + index) % _STRIDE:
                    continue
                weight = 1.0 * _STRIDE
        mixing.learn_outcome(model, rows, row, hit, weight)


@part
def _child(record: Ints, node: Int, token: Int) -> Int:
    """Return the drafted child with this token, 0 where there is none; the hit rate follows."""
    is_first = True
    for index in range(node + 1, record[NUM_NODES] + 1):
        at = NODES_AT + NODE_LEN * index
        if record[at + PARENT] == node:
            is_child = record[at + TOKEN] == token
            if is_first:
                target = FULL_HIT_RATE if is_child else 0
                record[HIT_RATE] += (target - record[HIT_RATE]) >> _HIT_RATE_SHIFT
                is_first = False
            if is_child:
                return np.int64(index)
    return np.int64(0)


@part
def keep_successors(
    local: Arena, successors: Ints, token_ids: Ints, following: Ints, num_tokens: Int
) -> None:
    """Keep the model's next tokens per row under the token before it; call before observe.

    `following` holds one row of SUCCESSOR_RANKS ids per token, -1 where unknown.
    """
    token = last_token(local)
    for index in range(num_tokens):
        row = successor_row(successors, token)
        start = mixing.SUCCESSOR_RANKS * index
        if row > 0 and following[start] >= 0:
            successors[row] = token
            for rank in range(mixing.SUCCESSOR_RANKS):
                successors[row + 1 + rank] = following[start + rank]
        token = np.int64(token_ids[index])
