"""A histogram as plain numbers: cheap enough for the hot path, read by whoever scrapes."""

import itertools
from bisect import bisect_left
from collections.abc import Sequence

# Seconds of a whole request: from a short prompt on a GPU to a long answer on a CPU.
REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
# Seconds of a token or of a step.
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
# Seconds of a call to a drafter or of one look-up there.
LOOKUP_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1)


class Histogram:
    """Counts of values at most each bound, and above the last; one thread writes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise strictly."""
        self.bounds = tuple(bounds)
        assert all(low < high for low, high in itertools.pairwise(bounds)), bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)
