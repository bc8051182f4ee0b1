"""How many drafted nodes a step should verify: those that raise expected tokens per second.

The step-time curve T(rows) is measured when the server starts and tracked while it runs. Nodes of
all sequences are taken in one order of probability; of all cuts the one with the best
(sequences + expected accepted nodes) / T(rows) wins, and the cut at zero is one of them.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
# Weight of one new measurement; and how far below the curve's own promise a gain must not fall.
TRACKING = 0.1
MIN_GAIN = 1.02


class StepCurve:
    """Seconds a forward pass takes by its number of rows."""

    def __init__(self, row_counts: Sequence[int], seconds: Sequence[float]) -> None:
        assert len(row_counts) == len(seconds) > 1, "a curve needs two points"
        self._rows = np.array(row_counts, float)
        self._seconds = np.array(seconds, float)

    @property
    def plain_s(self) -> float:
        """Seconds of a step of one row."""
        return float(self._seconds[0])

    def seconds(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Interpolated time of each row count; linear in the last slope beyond the curve."""
        # Fewer rows never cost more: what rises above a later point was disturbed.
        rising = np.minimum.accumulate(self._seconds[::-1])[::-1]
        slope = (rising[-1] - rising[-2]) / (self._rows[-1] - self._rows[-2])
        beyond = np.maximum(rows - self._rows[-1], 0) * slope
        return np.asarray(np.interp(rows, self._rows, rising) + beyond)

    def track(self, rows: int, seconds: float) -> None:
        """Follow a step just measured; outliers count little.

        The whole curve moves with the machine's load, the nearest point also by itself.
        """
        nearest = int(np.abs(self._rows - rows).argmin())
        expected = float(self.seconds(np.array([rows]))[0])
        ratio = min(max(seconds / expected, 0.5), 2.0)
        step = 1.0 + TRACKING * (ratio - 1.0)
        self._seconds *= step
        self._seconds[nearest] *= step

    def as_dict(self) -> dict[str, list[float]]:
        """For saving."""
        return {"rows": self._rows.tolist(), "seconds": self._seconds.tolist()}


def choose_nodes(
    curve: StepCurve, probabilities: Sequence[Sequence[float]], num_sequences: int, num_rows: int
) -> list[int]:
    """How many leading nodes of each tree to verify.

    `num_rows` rows run anyway. A tree's probabilities fall, so its best nodes are a prefix.
    """
    flat = np.array(list(itertools.chain.from_iterable(probabilities)))
    if not len(flat):
        return [0] * len(probabilities)
    owners = np.repeat(np.arange(len(probabilities)), [len(p) for p in probabilities])
    order = np.argsort(-flat, kind="stable")
    expected = num_sequences + np.concatenate([[0.0], np.cumsum(flat[order])])
    rate = expected / curve.seconds(num_rows + np.arange(len(flat) + 1))
    best = int(rate.argmax())
    if rate[best] < MIN_GAIN * rate[0]:
        best = 0
    counts = np.bincount(owners[order[:best]], minlength=len(probabilities))
    return [int(count) for count in counts]
