"""Draws what the benchmarks measured, as PNG files for the documentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Protocol

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLUMNS = 3
COLOURS = {
    "ours": "#c0392b",
    "prompt-lookup": "#7f8c8d",
    "lookahead-paper": "#2980b9",
    "arctic": "#27ae60",
    "none": "#b7b7b7",
}

WORKLOAD_COLOURS = (
    "#c0392b",
    "#2980b9",
    "#27ae60",
    "#8e44ad",
    "#d35400",
    "#16a085",
    "#34495e",
    "#f1a7b5",
)

Points = list[tuple[float, float]]


class Predicted(Protocol):
    """What is drawn of a prediction."""

    @property
    def card(self) -> str:
        """The GPU's name."""
        ...

    @property
    def workload(self) -> str:
        """What is decoded."""
        ...

    @property
    def streams(self) -> int:
        """Sequences at once."""
        ...

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs replay the kernels."""
        ...

    @property
    def speed_up(self) -> float:
        """Over plain decoding."""
        ...


@dataclass(frozen=True, slots=True)
class Curve:
    """Tokens per step against drafted nodes per step: one source on one workload."""

    source: str
    workload: str
    points: Points


@dataclass(frozen=True, slots=True)
class Bars:
    """Milliseconds a token: groups of bars, one for each series. None: not measured."""

    title: str
    groups: list[str]
    series: dict[str, list[float | None]]


def plot_replay(
    path: Path, curves: Sequence[Curve], reliability: Sequence[tuple[str, Points]]
) -> None:
    """Draw one panel per workload and, last, the reliability diagram."""
    names = list(dict.fromkeys(curve.workload for curve in curves))
    rows = ceil((len(names) + 1) / COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(4.4 * COLUMNS, 3.3 * rows), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    for name, axis in zip(names, axes, strict=False):
        _draw_workload(axis, name, [curve for curve in curves if curve.workload == name])
    _draw_reliability(axes[len(names)], reliability)
    for axis in axes[len(names) + 1 :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _save(path)


def plot_prediction(path: Path, predictions: Sequence[Predicted]) -> None:
    """Draw predicted speed-up against streams, one panel per card and way of calling."""
    cards = list(dict.fromkeys(each.card for each in predictions))
    names = list(dict.fromkeys(each.workload for each in predictions))
    figure, grid = plt.subplots(
        2, len(cards), figsize=(4.4 * len(cards), 7.0), sharey=True, layout="constrained"
    )
    for row, graphs in zip(grid, (False, True), strict=True):
        for axis, card in zip(row, cards, strict=True):
            shown = [p for p in predictions if p.card == card and p.graphs == graphs]
            for name, colour in zip(names, WORKLOAD_COLOURS, strict=False):
                line = [(p.streams, p.speed_up) for p in shown if p.workload == name]
                axis.plot(*zip(*line, strict=True), "o-", ms=3, color=colour, label=name)
            axis.axhline(1.0, color="#b7b7b7", lw=0.8)
            axis.set_xscale("log", base=2)
            ticks = sorted({p.streams for p in shown})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.set_title(f"{card}, {'CUDA graphs' if graphs else 'eager'} (predicted)")
            axis.set_xlabel("streams")
    grid[0][0].set_ylabel("times plain decoding")
    grid[1][0].set_ylabel("times plain decoding")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _save(path)


def plot_trie(path: Path, sizes: Sequence[tuple[int, dict[int, tuple[float, float]]]]) -> None:
    """Draw propose time against learned tokens, p50 and p99 per budget."""
    _, axis = plt.subplots(figsize=(6.0, 4.0), layout="constrained")
    tokens = [num_tokens for num_tokens, _ in sizes]
    for budget, colour in zip(sizes[0][1], ("#c0392b", "#2980b9", "#27ae60"), strict=False):
        for index, (name, style) in enumerate((("p50", "o-"), ("p99", "o--"))):
            times = [times[budget][index] for _, times in sizes]
            axis.plot(tokens, times, style, color=colour, ms=4, label=f"{budget} nodes, {name}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("learned tokens")
    axis.set_ylabel("propose, µs")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, fontsize=9)
    _save(path)


def plot_bars(path: Path, panels: Sequence[Bars]) -> None:
    """Draw a panel for each; the shorter a bar, the better."""
    figure, grid = plt.subplots(
        len(panels), 1, figsize=(11.0, 3.6 * len(panels)), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(grid.flat, panels, strict=True):
        width = 0.85 / len(panel.series)
        for place, (name, values) in enumerate(panel.series.items()):
            at = [group + width * place for group in range(len(panel.groups))]
            colour = plt.get_cmap("tab20")(place)
            axis.bar(at, [value or 0.0 for value in values], width, label=name, color=colour)
        axis.set_xticks([group + 0.4 for group in range(len(panel.groups))], panel.groups)
        axis.set_title(panel.title)
        axis.set_ylabel("ms a token")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    _save(path)


def _draw_workload(axis: Axes, name: str, curves: Sequence[Curve]) -> None:
    for curve in curves:
        drafted, tokens = zip(*curve.points, strict=True)
        axis.plot(
            drafted, tokens, "o-", ms=3.5, label=curve.source, color=COLOURS.get(curve.source)
        )
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("drafted nodes per step", fontsize=8)
    axis.set_ylabel("tokens per step", fontsize=8)
    axis.set_ylim(bottom=1.0 - 0.02 * (axis.get_ylim()[1] - 1.0))
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)


def _draw_reliability(axis: Axes, series: Sequence[tuple[str, Points]]) -> None:
    axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
    for label, points in series:
        if points:
            said, true = zip(*points, strict=True)
            axis.plot(said, true, "o-", ms=3, lw=1, label=label)
    axis.set_title("said probability against accepted share", fontsize=10)
    axis.set_xlabel("said", fontsize=8)
    axis.set_ylabel("true", fontsize=8)
    axis.grid(alpha=0.3)
    if any(points for _, points in series):
        axis.legend(fontsize=6, loc="upper left")


def _save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=130)
    plt.close("all")
