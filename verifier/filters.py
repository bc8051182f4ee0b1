"""Which tokens survive top-k, top-p and min-p, and the draw among them. Arrays on the host.

All three keep the tokens whose score reaches some border, so one number says everything. Tokens
tied at the border all stay, as with Hugging Face's top-k: the order of equals never matters.
"""

import math
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


class Filters(Protocol):
    """The filters' settings; 0, 1 and 0 turn them off."""

    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...


def border(best: Floats, log_total: float, filters: Filters, *, is_all: bool) -> float | None:
    """Return the lowest score that survives; None where it lies beyond the scores given.

    `best` are the highest scores, falling: all of them (`is_all`) or some. `log_total` is the
    log-sum-exp of all scores.
    """
    lowest = -math.inf
    if filters.top_k > 0 and not (is_all and filters.top_k >= len(best)):
        if filters.top_k > len(best):
            return None
        lowest = float(best[filters.top_k - 1])
        kept = best[best >= lowest]
        log_total = float(best[0] + np.log(np.exp(kept - best[0]).sum()))
    if filters.top_p < 1.0:
        mass = np.cumsum(np.exp(best - log_total))
        index = int(np.searchsorted(mass, filters.top_p))
        if index == len(best) and not is_all:
            return None
        lowest = max(lowest, float(best[min(index, len(best) - 1)]))
    if filters.min_p > 0.0:
        lowest = max(lowest, float(best[0]) + math.log(filters.min_p))
    # Tokens tied with the last score given may be missing from `best`.
    return lowest if is_all or lowest > best[-1] else None


def draw(scores: Floats, u: float) -> int:
    """Return the index that `u` in [0, 1) falls on: inverse CDF, in the order given."""
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    target = min(u * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(np.searchsorted(cumulative, target, side="right"))
