"""Grows draft trees and keeps, per sequence, what the last draft was made of until it is judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import record as layout
from drafter.kernels import turn as kernels
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


@dataclass(slots=True)
class Drafted:
    """The trees of some sequences, in the order in which they were asked for."""

    nodes: NDArray[np.int32]  # [sequences, (token ids, parents, sources), nodes]
    chances: NDArray[np.float32]  # [sequences, nodes]
    counts: list[int]

    def tree(self, index: int) -> DraftTree:
        """Return one of the trees."""
        count = self.counts[index]
        token_ids, parents, sources = self.nodes[index, :, :count]
        return DraftTree(token_ids, parents, self.chances[index, :count], sources)


_MIN_SPACE = 16


class DraftRecord:
    """The last draft of one sequence: its nodes, all candidates beside them, and their evidence."""

    __slots__ = ("ints", "is_unjudged", "max_nodes", "num_nodes", "rows")

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


class Proposer:
    """Scratch memory for one draft at a time, shared by all sequences."""

    def __init__(self) -> None:
        self._make(_MIN_SPACE)

    def propose(self, rows: Sequence[list[int]], max_nodes: Sequence[int]) -> Drafted:
        """Draft for each sequence at most so many nodes, whose record must have room for them.

        `rows`: where a sequence's arrays are, as a row of the kernel's table begins.
        """
        space, count = max(max_nodes, default=0), len(rows)
        if space > self._max_nodes:
            self._make(space)
        fields = [n for row, most in zip(rows, max_nodes, strict=True) for n in (*row, 0, 0, 0, most)]
        table = np.array(fields, np.int64)
        nodes, chances = np.empty(3 * count * space, np.int32), np.empty(count * space, np.float32)
        dispatch.draft_all(table, nodes, chances, self._scratch, self._chances)
        counts = table[kernels.MAX_NODES :: kernels.ROW_LEN].tolist()
        return Drafted(nodes.reshape(count, 3, space), chances.reshape(count, space), counts)

    def _make(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._scratch = layout.new_scratch(max_nodes)
        self._chances = layout.new_chances(max_nodes)
