"""What every draft source answers and promises, so that one replay measures them all alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft tree: `parents[i] < i`, -1 hangs below the last emitted token."""

    token_ids: Sequence[int] | NDArray[np.integer]
    parents: Sequence[int] | NDArray[np.integer]
    # Chance that a node is on the true path; None where the method claims none.
    probabilities: Sequence[float] | NDArray[np.floating] | None = None


class DraftSource(Protocol):
    """One sequence at a time; what it remembers between sequences is its own affair."""

    def open(self, token_ids: Sequence[int]) -> None:
        """Start a sequence from its prompt."""

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Take the emitted tokens; the first `num_verified` nodes of the last draft were tested."""

    def propose(self, max_nodes: int) -> Draft:
        """Draft what may come next, at most `max_nodes` nodes."""

    def close(self) -> None:
        """End the sequence, and learn from it where the method does."""

    def num_learned_tokens(self) -> int:
        """Count the tokens held from earlier sequences."""

    def num_bytes(self) -> int:
        """Measure the memory held for them; 0 where the method cannot tell."""


def checked(draft: Draft, max_nodes: int) -> tuple[list[int], list[int]]:
    """Return token ids and parents as lists, or raise where the draft is not a tree in budget."""
    token_ids = [int(token) for token in np.asarray(draft.token_ids).tolist()]
    parents = [int(parent) for parent in np.asarray(draft.parents).tolist()]
    if len(token_ids) != len(parents) or len(token_ids) > max_nodes:
        raise ValueError(f"draft: {len(token_ids)} tokens, {len(parents)} parents, {max_nodes=}")
    if draft.probabilities is not None:
        _check_probabilities(np.asarray(draft.probabilities), parents)
    if any(not -1 <= parent < node for node, parent in enumerate(parents)):
        raise ValueError(f"draft: a parent does not come before its child: {parents}")
    if len(set(zip(parents, token_ids, strict=True))) != len(parents):
        raise ValueError("draft: two siblings carry the same token")
    return token_ids, parents


def _check_probabilities(values: NDArray[np.floating], parents: list[int]) -> None:
    if len(values) != len(parents) or not bool(np.all((values >= 0) & (values <= 1))):
        raise ValueError(f"draft: probabilities must be one in [0, 1] per node: {values}")
    if bool(np.any(np.diff(values) > 1e-6)):
        raise ValueError("draft: probabilities must fall, or a prefix would not be the best cut")


def walk(token_ids: Sequence[int], parents: Sequence[int], truth: Sequence[int]) -> list[int]:
    """Follow the true continuation from the root; return the accepted nodes in order."""
    children = {edge: node for node, edge in enumerate(zip(parents, token_ids, strict=True))}
    path: list[int] = []
    at = -1
    for token in truth:
        if (at, token) not in children:
            break
        at = children[at, token]
        path.append(at)
    return path
