"""How many drafted nodes a step should verify: those that raise expected tokens per second.

The step-time curve T(rows, context) is measured when the server starts and tracked while it runs.
Nodes of all sequences are taken in one order of probability; of all cuts the one with the best
(sequences + expected accepted nodes) / T wins, and the cut at zero is one of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The first row beyond eight may cost as much as the next four: kernels work in blocks of rows.
ROW_COUNTS = (1, 2, 4, 8, 9, 12, 16, 32, 64)
# A GPU's step takes little longer up to some hundreds of rows, which many sequences fill.
GPU_ROW_COUNTS = (*ROW_COUNTS, 96, 128, 192, 256, 384, 512)
TRACKING = 0.1  # weight of one new measurement
# Smaller promised gains are not worth the risk: the curve itself is only known to a few percent.
MIN_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Offer:
    """One sequence's draft as the budget sees it."""

    probabilities: NDArray[np.float64]  # of its nodes, falling
    kv_len: int  # cached rows that each node attends to


class StepCurve:
    """Seconds a forward pass takes by its number of rows and what they attend to."""

    def __init__(
        self, row_counts: Sequence[float], seconds: Sequence[float], attention_s: float = 0.0
    ) -> None:
        """`attention_s`: seconds that one more row takes per cached row it attends to."""
        assert len(row_counts) == len(seconds) > 1, "a curve needs two points"
        self.attention_s = attention_s
        self._rows = [float(rows) for rows in row_counts]
        self._set(list(map(float, seconds)))

    @property
    def plain_s(self) -> float:
        """Seconds of a step of one row."""
        return self._rising[0]

    def plain_units(self) -> Callable[[float], float]:
        """Time of a plain step by its number of sequences, as the curve says now."""
        return StepCurve(self._rows, self._seconds).at

    def at(self, rows: float) -> float:
        """Interpolated time of one row count; linear in the last slope beyond the curve."""
        if rows <= self._rows[0]:
            return self._rising[0]
        right = min(bisect_left(self._rows, rows), len(self._rows) - 1)
        start, end = self._rows[right - 1], self._rows[right]
        below, above = self._rising[right - 1], self._rising[right]
        return below + (above - below) * (rows - start) / (end - start)

    def seconds(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """The same of many row counts."""
        rising = np.array(self._rising)
        slope = (rising[-1] - rising[-2]) / (self._rows[-1] - self._rows[-2])
        beyond = np.maximum(rows - self._rows[-1], 0) * slope
        return np.asarray(np.interp(rows, self._rows, rising) + beyond)

    def track(self, rows: int, seconds: float) -> None:
        """Follow a step just measured; outliers count little.

        The whole curve moves with the machine's load. What the nearest point takes beyond that,
        more rows take, too: else points that no step comes near would seem cheap beside it.
        """
        nearest = min(range(len(self._rows)), key=lambda i: abs(self._rows[i] - rows))
        ratio = min(max(seconds / self.at(rows), 0.5), 2.0)
        step = 1.0 + TRACKING * (ratio - 1.0)
        beyond = (step - 1.0) * step * self._rising[nearest]
        self._set([s * step + beyond * (i >= nearest) for i, s in enumerate(self._seconds)])
        self.attention_s *= step

    def _set(self, seconds: list[float]) -> None:
        """Keep the points, and them without what was disturbed: fewer rows never cost more."""
        self._seconds = seconds
        self._rising = list(accumulate(reversed(seconds), min))[::-1]

    def as_dict(self) -> dict[str, list[float] | float]:
        """For saving."""
        return {"rows": self._rows, "seconds": self._seconds, "attention_s": self.attention_s}


def choose_nodes(
    curve: StepCurve, offers: Sequence[Offer], num_sequences: int, num_rows: int
) -> list[int]:
    """How many leading nodes of each offer to verify.

    `num_rows` rows run anyway. Probabilities fall, so an offer's best nodes are a prefix.
    """
    sizes = [len(offer.probabilities) for offer in offers]
    if not sum(sizes):
        return [0] * len(offers)
    flat = np.concatenate([offer.probabilities for offer in offers])
    owners = np.repeat(np.arange(len(offers)), sizes)
    order = np.argsort(-flat, kind="stable")
    reads = np.array([offer.kv_len for offer in offers])[owners[order]]
    expected = num_sequences + np.concatenate([[0.0], np.cumsum(flat[order])])
    attention_s = curve.attention_s * np.concatenate([[0], np.cumsum(reads)])
    rate = expected / (curve.seconds(num_rows + np.arange(len(flat) + 1)) + attention_s)
    best = int(rate.argmax())
    if rate[best] < MIN_GAIN * rate[0]:
        best = 0
    counts = np.bincount(owners[order[:best]], minlength=len(offers))
    return [int(count) for count in counts]


def choose_apart(
    curve: StepCurve, expected: Sequence[float], num_nodes: Sequence[int], num_rows: Sequence[int]
) -> set[int]:
    """Which sequences verify drafts, where each that does leaves the pass of all the others.

    `expected`: accepted nodes of each sequence's `num_nodes`; `num_rows`: what it runs in any case.
    """
    own_s = curve.seconds(np.array(num_rows) + np.array(num_nodes))
    drafted = [index for index, count in enumerate(num_nodes) if count]
    order = sorted(drafted, key=lambda i: expected[i] / own_s[i], reverse=True)
    left, spent_s, emitted = sum(num_rows), 0.0, float(len(expected))
    rates = [emitted / curve.at(left)]
    for index in order:
        left -= num_rows[index]
        spent_s += own_s[index]
        emitted += expected[index]
        rates.append(emitted / (spent_s + (curve.at(left) if left else 0.0)))
    best = int(np.argmax(rates))
    if rates[best] < MIN_GAIN * rates[0]:
        best = 0
    return set(order[:best])
