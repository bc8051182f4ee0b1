"""A draft tree, and what it was made of until it is judged."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import record as layout


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


MIN_SPACE = 16


class DraftRecord:
    """The last draft of one sequence: its nodes, all candidates beside them, and their evidence."""

    __slots__ = ("ints", "is_unjudged", "max_nodes", "num_nodes", "rows")

    def __init__(self) -> None:
        self._make(MIN_SPACE, layout.FULL_HIT_RATE // 2)

    def grow(self, max_nodes: int) -> None:
        """Forget the draft and make room for that many nodes."""
        self._make(max_nodes, int(self.ints[layout.HIT_RATE]))

    def note(self, *, judged: bool, drafted: bool, num_nodes: int) -> None:
        """Follow what a turn did: it judged the draft, made a new one, or both."""
        if drafted:
            self.num_nodes, self.is_unjudged = num_nodes, True
        elif judged:
            self.num_nodes, self.is_unjudged = 0, False

    def _make(self, max_nodes: int, hit_rate: int) -> None:
        self.num_nodes = 0
        self.is_unjudged = False
        self.max_nodes = max_nodes
        self.ints = layout.new_record(max_nodes, hit_rate)
        self.rows = layout.new_rows(max_nodes)
