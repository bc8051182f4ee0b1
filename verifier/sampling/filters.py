"""Which tokens survive top-k, top-p and min-p, and the draw among them. Arrays on the host.

All three keep the tokens whose score reaches a cutoff, so one number describes each filter. Tokens
tied at the cutoff all stay, as in Hugging Face's top-k: the order of equals never matters.

Noisy scores need two more bounds. At or above the upper one a token survives for any noise; below
the lower one it never does. A draw whose token depends on the noise is left open.
"""

import math
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The lowest score that survives, at best and at worst."""

    score: float
    low: float  # no token below it survives
    high: float  # every token from it on survives


MAX_NOISE = 500.0  # more would overflow, and says no more
NO_BORDER = Cutoff(-math.inf, -math.inf, -math.inf)


def cutoff(
    best: Floats, log_total: float, filters: Filters, *, is_all: bool, noise: float = 0.0
) -> Cutoff | None:
    """Return the lowest score that survives; None where it lies beyond the scores given.

    `best` are the highest scores, falling: all of them (`is_all`) or some. `log_total` is the
    log-sum-exp of all scores. `noise`: how far the difference of two scores may be wrong.
    """
    found = NO_BORDER
    doubt = noise
    if filters.top_k > 0 and not (is_all and filters.top_k >= len(best)):
        if filters.top_k > len(best):
            return None
        k = filters.top_k
        found = Cutoff(float(best[k - 1]), *_bounds(best, k, k, noise, is_all=is_all))
        log_total = _log_sum(best[best >= found.score])
        if noise:  # tokens in doubt are part of the total or are not
            doubt += _log_sum(best[best >= found.low]) - _log_sum(best[best >= found.high])
    if filters.top_p < 1.0:
        sizes = _nucleus_sizes(best, log_total, filters.top_p, doubt, is_all=is_all)
        if sizes is None:
            return None
        size, most, fewest = sizes
        bounds = _bounds(best, most, fewest, noise, is_all=is_all)
        found = _higher(found, Cutoff(float(best[size - 1]), *bounds))
    if filters.min_p > 0.0:
        score = float(best[0]) + math.log(filters.min_p)
        found = _higher(found, Cutoff(score, score - noise, score + noise))
    # Tokens tied with the last score given may be missing from `best`.
    return found if is_all or found.low > best[-1] else None


def draw(scores: Floats, u: float) -> int:
    """Return the index that `u` in [0, 1) falls on: inverse CDF, in the order given."""
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    target = min(u * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(np.searchsorted(cumulative, target, side="right"))


def is_certain(scores: Floats, index: int, u: float, cutoff: Cutoff, noise: float) -> bool:
    """Whether `u` falls on `scores[index]` whatever the noise; `scores` reach `border.low`."""
    mass = np.exp(scores - scores.max())
    survives = scores >= cutoff.high
    if not survives[index]:
        return False
    sure = np.where(survives, mass, 0.0)
    below_max, below_min = mass[:index].sum(), sure[:index].sum()
    above_max, above_min = mass[index + 1 :].sum(), sure[index + 1 :].sum()
    own = mass[index]
    return is_between(u, (below_max, own + above_min), (below_min + own, above_max), noise)


def is_between(u: float, low: tuple[float, float], high: tuple[float, float], noise: float) -> bool:
    """Whether the odds of `u` clear the odds `low` and stay below `high` by a factor e^noise.

    Odds are pairs of masses, before : after. Scores whose differences are wrong by at most
    `noise` have odds that are wrong by at most that factor.
    """
    factor = math.exp(min(noise, MAX_NOISE))
    return u * low[1] >= (1 - u) * low[0] * factor and u * high[1] * factor < (1 - u) * high[0]


def _bounds(
    best: Floats, most: int, fewest: int, noise: float, *, is_all: bool
) -> tuple[float, float]:
    """Scores below which none of the `most` best can be, and from which on all are among the
    `fewest` best."""
    low = float(best[most - 1])
    if not noise:
        return low, low
    # The best that is left out; one that is not given is no better than the last given.
    is_given = fewest < len(best)
    after = float(best[min(fewest, len(best) - 1)]) if is_given or not is_all else -math.inf
    return low - noise, after + noise


def _higher(one: Cutoff, other: Cutoff) -> Cutoff:
    """What survives both."""
    return Cutoff(max(one.score, other.score), max(one.low, other.low), max(one.high, other.high))


def _nucleus_sizes(
    best: Floats, log_total: float, top_p: float, doubt: float, *, is_all: bool
) -> tuple[int, int, int] | None:
    """Tokens that it takes to hold top_p: as given, at most and at least, where the odds of what
    they hold are wrong by e^doubt; None where it takes more than are given."""
    mass = np.cumsum(np.exp(best - log_total))
    odds, factor = top_p / (1 - top_p), math.exp(min(doubt, MAX_NOISE))
    shares = [top_p, *(o / (1 + o) for o in (odds * factor, odds / factor))]
    size, most, fewest = (
        int(np.searchsorted(mass, share)) + 1 for share in (shares if doubt else [top_p] * 3)
    )
    if max(size, most) > len(best) and not is_all:
        return None
    return min(size, len(best)), min(most, len(best)), min(fewest, len(best))


def _log_sum(scores: Floats) -> float:
    if not len(scores):
        return -math.inf
    return float(scores[0] + np.log(np.exp(scores - scores[0]).sum()))
