"""Checks what comes from outside, once, and names the field and the value that are wrong."""

from collections.abc import Sequence

import numpy as np

from drafter.api.turn_budget import TOKENS_PER_TURN, TurnBudget
from drafter.trie.token_run import MAX_TOKEN_ID, TokenRun
from rpc.contract import problem_with_name
from rpc.errors import InvalidRequest

MAX_RUN_TOKENS = 1 << 20
MAX_OBSERVED_TOKENS = 1 << 12
MAX_PREDICTION_TOKENS = 1 << 16
MAX_NODES = 64
MAX_SUCCESSORS = 64
# So few ids are checked faster without NumPy.
_FEW = 64


def checked_space(vocabulary: str, namespace: str, path: str = "") -> str:
    """Return the key under which a namespace of a vocabulary is kept."""
    for field, value in (("vocabulary", vocabulary), ("namespace", namespace)):
        if problem := problem_with_name(value):
            raise InvalidRequest.at(path + field, problem, value)
    return f"{vocabulary}/{namespace}"


def split_space(space: str) -> tuple[str, str]:
    """Return the vocabulary and the namespace that `checked_space` joined."""
    vocabulary, _, namespace = space.partition("/")
    return vocabulary, namespace


def checked_prefix(prefix: str, path: str) -> str:
    """Return what a namespace's name may begin with."""
    if problem := problem_with_name(prefix, may_be_empty=True):
        raise InvalidRequest.at(path, problem, prefix)
    return prefix


def checked_number(value: int, path: str, limit: int) -> int:
    """Return `value` if it is at most `limit`."""
    if value > limit:
        raise InvalidRequest.at(path, f"must be at most {limit}", value)
    return value


def checked_token_ids(values: Sequence[int], path: str, limit: int) -> TokenRun:
    """Return a short run of ids as an array."""
    _check_len(values, path, limit)
    return _checked_slice(values[:], 0, path)  # a list, where `values` is a message's field


async def checked_run(values: Sequence[int], path: str, limit: int, turn: TurnBudget) -> TokenRun:
    """Return a run of any length as an array; others get their turn between its slices."""
    _check_len(values, path, limit)
    run = np.empty(len(values), dtype=np.int32)
    for start in range(0, len(values), TOKENS_PER_TURN):
        part = _checked_slice(values[start : start + TOKENS_PER_TURN], start, path)
        run[start : start + len(part)] = part
        await turn.spend(len(part))
    return run


def _check_len(values: Sequence[int], path: str, limit: int) -> None:
    if len(values) > limit:
        raise InvalidRequest.at(path, f"must hold at most {limit} ids", len(values))


def _checked_slice(values: Sequence[int], start: int, path: str) -> TokenRun:
    if len(values) < _FEW and max(values, default=0) <= MAX_TOKEN_ID:
        return np.array(values, dtype=np.int32)
    ids = np.fromiter(values, dtype=np.int64, count=len(values))
    if len(ids) and ids.max() > MAX_TOKEN_ID:  # unsigned on the wire, so never negative
        index = int(np.argmax(ids > MAX_TOKEN_ID))
        field = f"{path}[{start + index}]"
        raise InvalidRequest.at(field, f"must be at most {MAX_TOKEN_ID}", int(ids[index]))
    return ids.astype(np.int32)
