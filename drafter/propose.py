"""Grows draft trees and keeps, per sequence, what the last draft was made of until it is judged."""

import numpy as np
from numpy.typing import NDArray

from drafter import kernels_draft as kernels
from drafter.kernels_mixing import ROW_LEN
from drafter.tree import DraftTree

# Below this chance a node costs more to verify than it can ever bring.
MIN_PROBABILITY = 0.001
_MIN_SPACE = 16


class DraftRecord:
    """The last draft of one sequence: its nodes, all candidates beside them, and their evidence."""

    __slots__ = ("ints", "max_nodes", "num_nodes", "rows")

    def __init__(self) -> None:
        self.num_nodes = 0
        self.ints = np.zeros(kernels.RECORD_HEADER_LEN, np.int32)
        self.ints[kernels.LUCK] = kernels.FULL_LUCK // 2
        self.grow(_MIN_SPACE)

    def grow(self, max_nodes: int) -> None:
        """Forget the draft and make room for that many nodes."""
        self.max_nodes = max_nodes
        self.num_nodes = 0
        pool = (max_nodes + 2) * kernels.POOL_PER_NODE
        luck = self.ints[kernels.LUCK]
        self.ints = np.zeros(kernels.record_len(max_nodes), np.int32)
        self.ints[kernels.LUCK] = luck
        self.ints[kernels.NODE_SPACE] = max_nodes + 1
        self.ints[kernels.POOL_SPACE] = pool
        self.rows = np.zeros((pool + max_nodes + 1, ROW_LEN), np.int16)


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
        wanted = min(max_nodes, kernels.MAX_NODES)
        if wanted > record.max_nodes:
            record.grow(wanted)
        if record.max_nodes > self._max_nodes:
            self._reserve(record.max_nodes)
        number = kernels.propose(
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
        record.num_nodes = int(number)
        return self._tree(record, record.num_nodes)

    def _tree(self, record: DraftRecord, number: int) -> DraftTree:
        space = record.max_nodes + 1
        first = kernels.RECORD_HEADER_LEN + 1
        sources = first + kernels.SOURCE * space
        chances = (record.max_nodes + 2) * kernels.POOL_PER_NODE + 1
        return DraftTree(
            record.ints[first : first + number].copy(),
            record.ints[first + space : first + space + number] - 1,
            self._chances[chances : chances + number].copy(),
            record.ints[sources : sources + number].copy(),
        )

    def _reserve(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        pool = (max_nodes + 2) * kernels.POOL_PER_NODE
        self._scratch = np.zeros(kernels.scratch_len(max_nodes), np.int32)
        self._chances = np.zeros(pool + max_nodes + 2, np.float32)
