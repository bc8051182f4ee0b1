"""Grows draft trees and keeps, per sequence, what the last draft was made of until it is judged."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import record as layout
from drafter.kernels.dispatch import dispatch


@dataclass(slots=True)  # not frozen, which would take four times as long to make
class DraftTree:
    """Drafted nodes in order of falling probability; every prefix is a valid tree."""

    token_ids: NDArray[np.int32]  # [nodes]
    parents: NDArray[np.int32]  # [nodes], parents[i] < i; -1 = child of the last committed token
    # Calibrated chance that the node is accepted: it and all nodes above it.
    probabilities: NDArray[np.float32]  # [nodes]
    # Whose evidence speaks most for the node: a `Source` of rpc/contract.py, as a number.
    sources: NDArray[np.int32]  # [nodes]

    def __len__(self) -> int:
        return len(self.token_ids)


# Below this chance a node costs more to verify than it can ever bring.
MIN_PROBABILITY = 0.001
_MIN_SPACE = 16


class DraftRecord:
    """The last draft of one sequence: its nodes, all candidates beside them, and their evidence."""

    __slots__ = ("chances_at", "ints", "is_unjudged", "max_nodes", "num_nodes", "rows", "tree_at")

    def __init__(self) -> None:
        self._make(_MIN_SPACE, layout.FULL_HIT_RATE // 2)

    def grow(self, max_nodes: int) -> None:
        """Forget the draft and make room for that many nodes."""
        self._make(max_nodes, int(self.ints[layout.HIT_RATE]))

    def _make(self, max_nodes: int, hit_rate: int) -> None:
        self.num_nodes = 0
        self.is_unjudged = False
        self.max_nodes = max_nodes
        self.ints = layout.new_record(max_nodes, hit_rate)
        self.rows = layout.new_rows(max_nodes)
        # Where the kernel leaves the draft, in memory shared by all sequences.
        self.tree_at = layout.tree_at(max_nodes)
        self.chances_at = layout.pool_space(max_nodes) + 1


class Proposer:
    """Scratch memory for one draft at a time, shared by all sequences of one thread."""

    def __init__(self) -> None:
        self._reserve(_MIN_SPACE)

    def propose(
        self,
        record: DraftRecord,
        *,
        local: NDArray[np.int32],
        shared: NDArray[np.int32],
        successors: NDArray[np.int32],
        model: NDArray[np.float32],
        max_nodes: int,
    ) -> DraftTree:
        """Return at most `max_nodes` nodes, the most probable first, parents before children."""
        wanted = min(max_nodes, layout.MAX_NODES)
        if wanted > record.max_nodes:
            record.grow(wanted)
        if record.max_nodes > self._max_nodes:
            self._reserve(record.max_nodes)
        number = dispatch.propose(
            local,
            shared,
            successors,
            model,
            record.ints,
            record.rows,
            self._scratch,
            self._chances,
            wanted,
            MIN_PROBABILITY,
        )
        record.num_nodes, record.is_unjudged = int(number), True
        return self._tree(record, record.num_nodes)

    def _tree(self, record: DraftRecord, number: int) -> DraftTree:
        nodes = self._scratch[record.tree_at : record.tree_at + 3 * number].copy()
        chances = self._chances[record.chances_at : record.chances_at + number].copy()
        return DraftTree(nodes[:number], nodes[number : 2 * number], chances, nodes[2 * number :])

    def _reserve(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._scratch = layout.new_scratch(max_nodes)
        self._chances = layout.new_chances(max_nodes)
