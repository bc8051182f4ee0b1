"""The benchmark's figures as a picture: throughput and time per token by concurrency."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lookahead.bench.figures import Row

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
