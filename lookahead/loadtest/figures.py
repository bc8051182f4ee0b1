"""The figures of a load test: one row per concurrency and mode, from its bursts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median

import numpy as np

from lookahead.loadtest.load import Burst
from lookahead.loadtest.target import ModeName, Reply


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


COLOURS = {"as served": "#2552b8", "plain": "#6b7280", "cold": "#2552b8", "warm": "#17663d"}


def require_matplotlib() -> None:
    """Raise OSError where there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise OSError("--plot needs matplotlib: pip install matplotlib")


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write the picture; the name's ending says the format."""
    from matplotlib.figure import Figure  # may not be installed

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    throughput, per_token = figure.subplots(1, 2)
    for mode in dict.fromkeys(row.mode for row in rows):
        chosen = [row for row in rows if row.mode == mode]
        style = {"marker": "o", "color": COLOURS[mode], "label": mode}
        concurrencies = [row.concurrency for row in chosen]
        throughput.plot(concurrencies, [row.tokens_per_second for row in chosen], **style)
        timed = [(r.concurrency, r.per_token_ms.p50) for r in chosen if r.per_token_ms]
        per_token.plot([c for c, _ in timed], [p50 for _, p50 in timed], **style)
    throughput.set_title("output tokens/s")
    per_token.set_title("ms per output token, median")
    for axes in (throughput, per_token):
        axes.set_xlabel("requests at once")
        axes.set_xticks(sorted({row.concurrency for row in rows}))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    throughput.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)
