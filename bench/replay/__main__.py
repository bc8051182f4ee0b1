"""Replays recorded requests through draft sources: `python -m bench.replay --traces DIR`.

No model runs: at every step a source sees the true context, drafts a tree, and the recorded output
says how much of it the target model would have accepted.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.plots import Curve, plot_replay
from bench.replay.player import play_cold, play_online
from bench.replay.recording import Figures, figures
from bench.replay.sources import factory, source_names
from bench.replay.traces import Request, load, workloads

PLAYERS = {"cold": play_cold, "online": play_online}
# Rarer calibration bins are noise, not points of the reliability diagram.
MIN_NODES_DRAWN = 50
# A source that claims no probabilities is drawn at these budgets, one that does at these cuts.
CURVE_BUDGETS = (4, 8, 16, 32, 64)
CURVE_THRESHOLDS = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.5, 0.7)


@dataclass(frozen=True, slots=True)
class Row:
    """One source on one workload."""

    source: str
    workload: str
    figures: Figures


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, replay, report."""
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def replay(source: str, requests: list[Request], options: argparse.Namespace) -> Figures:
    """Play one workload to one source."""
    play = PLAYERS[options.mode]
    return figures(play(requests, factory(source), options.budget, options.threshold))


def _run(options: argparse.Namespace) -> None:
    if options.budget < 1:
        raise ValueError(f"budget: {options.budget} is below 1")
    loaded = {
        name: load(options.traces, name, options.limit)
        for name in options.workload or workloads(options.traces)
    }
    rows = [
        Row(source, name, replay(source, requests, options))
        for name, requests in loaded.items()
        for source in options.source or ["ours"]
    ]
    print(_as_json(rows, options) if options.json else _as_text(rows, options))
    if options.plot is not None:
        plot_replay(options.plot, _curves(loaded, options), _reliability(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of *.jsonl.gz")
    parser.add_argument("--source", action="append", choices=source_names(), help="default: ours")
    parser.add_argument("--mode", choices=sorted(PLAYERS), default="online")
    parser.add_argument("--budget", type=int, default=16, help="most nodes a step may verify")
    parser.add_argument("--workload", action="append", help="default: every recorded one")
    parser.add_argument("--limit", type=int, help="at most this many requests per workload")
    parser.add_argument("--threshold", type=float, default=0.0, help="verify likelier nodes only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plot", type=Path, help="write tokens per step against drafted nodes")
    return parser


def _as_json(rows: Iterable[Row], options: argparse.Namespace) -> str:
    report = {
        "mode": options.mode,
        "budget": options.budget,
        "threshold": options.threshold,
        "rows": [
            {"source": row.source, "workload": row.workload, **row.figures.to_json()}
            for row in rows
        ],
    }
    return json.dumps(report, indent=1)


def _as_text(rows: list[Row], options: argparse.Namespace) -> str:
    head = (
        f"{options.mode}, budget {options.budget}; times in µs\n"
        f"{'workload':14}{'source':17}{'tok/step':>9}{'drafted':>9}{'precision':>10}"
        f"{'expected':>9}{'ECE':>7}{'propose p50':>12}{'p99':>7}{'observe p50':>12}{'p99':>7}"
        f"{'/token':>7}{'update/token':>13}{'B/token':>9}"
    )
    return "\n".join([head, *(_line(row) for row in rows), *_calibration_lines(rows)])


def _line(row: Row) -> str:
    it = row.figures
    return (
        f"{row.workload:14}{row.source:17}{it.tokens_per_step:9.3f}{it.drafted_per_step:9.2f}"
        f"{it.precision:10.3f}{_maybe(it.expected_accepted_per_step, 3):>9}"
        f"{_maybe(it.ece, 3):>7}{it.propose_us_p50:12.1f}{it.propose_us_p99:7.0f}"
        f"{it.observe_us_p50:12.1f}{it.observe_us_p99:7.0f}{it.observe_us_per_token:7.2f}"
        f"{it.update_us_per_token:13.2f}{_maybe(it.bytes_per_learned_token, 0):>9}"
    )


def _calibration_lines(rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        if row.figures.calibration:
            yield f"\ncalibration of {row.source} on {row.workload}: nodes, said, true"
        for each in row.figures.calibration:
            yield (
                f"  {each.low:.1f}-{each.low + 0.1:.1f} {each.num_nodes:9d}"
                f"{each.mean_probability:8.3f}{each.accepted_share:8.3f}"
            )


def _maybe(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _curves(loaded: dict[str, list[Request]], options: argparse.Namespace) -> list[Curve]:
    return [
        trade_off(source, name, requests, options.mode)
        for name, requests in loaded.items()
        for source in options.source or ["ours"]
    ]


def trade_off(source: str, workload: str, requests: list[Request], mode: str) -> Curve:
    """Trade drafted nodes against tokens per step: by cuts where a source knows its odds."""
    play = PLAYERS[mode]
    widest = max(CURVE_BUDGETS)
    first = figures(play(requests, factory(source), widest))
    knows_odds = first.expected_accepted_per_step is not None
    settings = (
        [(widest, cut) for cut in CURVE_THRESHOLDS[1:]]
        if knows_odds
        else [(budget, 0.0) for budget in CURVE_BUDGETS[:-1]]
    )
    points = [first] + [figures(play(requests, factory(source), *each)) for each in settings]
    return Curve(
        source, workload, sorted((each.drafted_per_step, each.tokens_per_step) for each in points)
    )


def _reliability(rows: Iterable[Row]) -> list[tuple[str, list[tuple[float, float]]]]:
    return [
        (
            f"{row.workload} ({row.source})",
            [
                (each.mean_probability, each.accepted_share)
                for each in row.figures.calibration
                if each.num_nodes >= MIN_NODES_DRAWN
            ],
        )
        for row in rows
        if row.figures.calibration
    ]


if __name__ == "__main__":
    main()
