"""The figures of a benchmark: one row per concurrency and mode, from its bursts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from lookahead.bench.load import Burst
from lookahead.bench.target import ModeName, Reply


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds, over requests."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Row:
    """What one mode did at one concurrency, all rounds together."""

    concurrency: int
    mode: ModeName
    num_requests: int
    num_errors: int
    first_error: str | None
    tokens_per_second: float  # median over rounds
    gain: float | None  # over plain; median over rounds of the ratio within a round
    tokens_per_step: float | None  # emitted tokens after the first / decode steps
    first_token_ms: Spread | None
    per_token_ms: Spread | None
    end_to_end_ms: Spread | None
    num_compared: int  # answers that plain decoding gave, too
    num_identical: int


def rows(bursts: Sequence[Burst]) -> list[Row]:
    """Return a row for each concurrency and mode, in the order of their first bursts."""
    groups = dict.fromkeys((burst.concurrency, burst.mode) for burst in bursts)
    return [_row(bursts, concurrency, mode) for concurrency, mode in groups]


def _row(bursts: Sequence[Burst], concurrency: int, mode: ModeName) -> Row:
    here = [b for b in bursts if (b.concurrency, b.mode) == (concurrency, mode)]
    plain = [b for b in bursts if (b.concurrency, b.mode) == (concurrency, "plain")]
    replies = [reply for burst in here for reply in burst.replies]
    errors = [error for burst in here for error in burst.errors]
    pairs = _pairs(here, plain) if mode != "plain" else []
    per_token = [r.per_token_s for r in replies if r.per_token_s is not None]
    return Row(
        concurrency,
        mode,
        num_requests=len(replies) + len(errors),
        num_errors=len(errors),
        first_error=errors[0] if errors else None,
        tokens_per_second=median(burst.tokens_per_second for burst in here),
        gain=_gain(here, plain),
        tokens_per_step=_tokens_per_step(replies),
        first_token_ms=_spread(reply.first_s for reply in replies),
        per_token_ms=_spread(per_token),
        end_to_end_ms=_spread(reply.last_s for reply in replies),
        num_compared=len(pairs),
        num_identical=sum(one.text == other.text for one, other in pairs),
    )


def _pairs(here: Sequence[Burst], plain: Sequence[Burst]) -> list[tuple[Reply, Reply]]:
    """Pair the answers to the same requests of the same round."""
    return [
        (one, other)
        for bursts in zip(here, plain, strict=False)
        for one, other in zip(*(burst.outcomes for burst in bursts), strict=True)
        if isinstance(one, Reply) and isinstance(other, Reply)
    ]


def _gain(here: Sequence[Burst], plain: Sequence[Burst]) -> float | None:
    pairs = list(zip(here, plain, strict=False))
    if not pairs or any(not b.replies for pair in pairs for b in pair):
        return None
    return median(one.tokens_per_second / other.tokens_per_second for one, other in pairs)


def _tokens_per_step(replies: Sequence[Reply]) -> float | None:
    told = [(r.num_tokens - 1, r.num_steps) for r in replies if r.num_steps]
    if not told:
        return None
    return fmean(tokens / steps for tokens, steps in told)


def _spread(seconds: Iterable[float]) -> Spread | None:
    values = [1000 * s for s in seconds]
    if not values:
        return None
    return Spread(float(np.percentile(values, 50)), float(np.percentile(values, 99)))
