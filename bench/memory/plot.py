"""Draws what `python -m bench.memory --plot FILE` measured of the shared memory's scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes


class Scaled(Protocol):
    """What is drawn of one size."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def append_tokens_per_s(self) -> float: ...
    @property
    def apply_tokens_per_s(self) -> float: ...
    @property
    def log_bytes_per_token(self) -> float: ...
    @property
    def redis_bytes_per_token(self) -> float: ...
    @property
    def snapshot_s(self) -> float: ...
    @property
    def start_from_log_s(self) -> float: ...
    @property
    def start_from_snapshot_s(self) -> float: ...


PANELS = (
    (
        "tokens per second",
        {
            "append_tokens_per_s": "appended and applied",
            "apply_tokens_per_s": "applied by a reader",
        },
        200_000.0,
    ),
    (
        "bytes of Redis memory per token",
        {"log_bytes_per_token": "log", "redis_bytes_per_token": "log and a snapshot"},
        6.0,
    ),
    (
        "seconds",
        {
            "start_from_log_s": "start from the log",
            "start_from_snapshot_s": "start from a snapshot",
            "snapshot_s": "write a snapshot",
        },
        None,
    ),
)


def plot(points: Sequence[Scaled], path: Path) -> None:
    """Draw each figure against the tokens learned; dashed lines are the targets."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained")
    for axis, (title, lines, target) in zip(axes, PANELS, strict=True):
        _draw(axis, points, lines)
        axis.set_title(title, fontsize=10)
        if target is not None:
            axis.axhline(target, color="#7f8c8d", linestyle="--", linewidth=1)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Axes, points: Sequence[Scaled], lines: dict[str, str]) -> None:
    sizes = [point.num_tokens for point in points]
    for name, label in lines.items():
        axis.plot(sizes, [getattr(point, name) for point in points], marker="o", label=label)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("tokens learned")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
