"""Which tokens survive top-k, top-p and min-p, and the draw among them. Arrays on the host.

All three keep the tokens whose score reaches a cutoff, so one number describes each filter. Tokens
tied at the cutoff all stay, as in Hugging Face's top-k: the order of equals never matters.
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


def cutoff(best: Floats, log_total: float, filters: Filters, *, is_all: bool) -> float | None:
    """Return the lowest score that survives; None where it lies beyond the scores given.

    `best` are the highest scores, falling: all of them (`is_all`) or some. `log_total` is the
    log-sum-exp of all scores.
    """
    found = -math.inf
    if filters.top_k > 0 and not (is_all and filters.top_k >= len(best)):
        if filters.top_k > len(best):
            return None
        found = float(best[filters.top_k - 1])
        log_total = _log_sum(best[best >= found])
    if filters.top_p < 1.0:
        mass = np.cumsum(np.exp(best - log_total))
        last = int(np.searchsorted(mass, filters.top_p))  # with it the mass reaches top_p
        if last >= len(best) and not is_all:
            return None
        found = max(found, float(best[min(last, len(best) - 1)]))
    if filters.min_p > 0.0:
        found = max(found, float(best[0]) + math.log(filters.min_p))
    # Tokens tied with the last score given may be missing from `best`.
    return found if is_all or found > best[-1] else None


def draw(scores: Floats, u: float) -> int:
    """Return the index that `u` in [0, 1) falls on: inverse CDF, in the order given."""
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    target = min(u * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(np.searchsorted(cumulative, target, side="right"))


def _log_sum(scores: Floats) -> float:
    return float(scores[0] + np.log(np.exp(scores - scores[0]).sum()))
