"""Looks contexts up by a trie's index: over the chains that drafts walk, as far as they go."""

import numpy as np

from drafter.kernels import trie as kernels
from drafter.kernels.dispatch import pure_python
from drafter.trie.token_run import TokenRun
from drafter.trie.trie import Trie

_hash_context = pure_python(kernels.hash_context)
_chain_start = pure_python(kernels.chain_start)
_chain_next = pure_python(kernels.chain_next)
_match_len = pure_python(kernels.match_len)
_token_after = pure_python(kernels.token_after)


def places(trie: Trie, context: TokenRun, limit: int = 5000) -> list[int]:
    """Return where the whole context ends, latest first; count from the oldest live token."""
    latest_first, length = context[::-1].copy(), np.int64(len(context))
    hashes = np.zeros(kernels.NUM_ORDERS, np.int32)
    order = _hash_context(latest_first, np.int64(0), length, hashes, np.int64(0)) - 1
    position = _chain_start(trie.arena, order, np.int64(hashes[order]))
    tail = int(trie.arena[kernels.TAIL])
    found: list[int] = []
    while position >= tail and len(found) < limit:
        if _match_len(trie.arena, position, latest_first, np.int64(0), length) == length:
            found.append(int(position) - tail)
        position = _chain_next(trie.arena, order, position)
    return found


def following(trie: Trie, context: TokenRun) -> list[int]:
    """Return the tokens that followed the context, the latest first; none across a boundary."""
    tail = int(trie.arena[kernels.TAIL])
    after = [_token_after(trie.arena, np.int64(tail + at)) for at in places(trie, context)]
    return [int(token) for token in after if token >= 0]


def holds(trie: Trie, run: TokenRun) -> bool:
    """Tell whether the whole run can be found."""
    return bool(places(trie, run, limit=1))
