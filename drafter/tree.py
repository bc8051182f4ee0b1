"""The draft tree: what the drafter answers and the verifier checks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)  # not frozen, which would take four times as long to make
class DraftTree:
    """Drafted nodes in order of falling probability; every prefix is a valid tree."""

    token_ids: NDArray[np.int32]  # [nodes]
    parents: NDArray[np.int32]  # [nodes], parents[i] < i; -1 = child of the last committed token
    # Calibrated chance that the node is accepted: it and all nodes above it.
    probabilities: NDArray[np.float32]  # [nodes]
    # Whose evidence speaks most for the node: 1 = this sequence, 2 = its namespace, 3 = the model's
    # own recent successors of the token before it.
    sources: NDArray[np.int32]  # [nodes]

    def __len__(self) -> int:
        return len(self.token_ids)
