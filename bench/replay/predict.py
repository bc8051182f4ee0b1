"""Predicts the speed-up on GPUs: `python -m bench.replay.predict --traces DIR [--plot FILE]`.

Tokens per step against drafted nodes are measured by replaying recorded requests; step times come
from a roofline of each card. Nothing here ran on a GPU: every figure printed is a prediction.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.plots import plot_prediction
from bench.replay.__main__ import trade_off
from bench.replay.traces import load, workloads
from bench.roofline import CARDS, HOP_S, SHAPES, Card, Shape, fits, step_s

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXT = 1000


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best cut for a workload on a card at one number of streams."""

    card: str
    model: str
    workload: str
    streams: int
    graphs: bool
    speed_up: float  # over the same card and model without drafts
    nodes: float  # drafted per sequence and step
    tokens_per_step: float
    plain_step_ms: float


def predict(
    card: Card,
    shape: Shape,
    workload: str,
    points: Sequence[tuple[float, float]],
    *,
    streams: int,
    graphs: bool,
) -> Prediction:
    """Choose among measured (nodes, tokens per step), no drafts included, what is fastest."""

    def seconds(nodes: float) -> float:
        rows = streams * (1 + nodes)
        pass_s = step_s(
            card, shape, rows=rows, num_sequences=streams, context=CONTEXT, graphs=graphs
        )
        return pass_s + (HOP_S if nodes else 0.0)

    options = [(0.0, 1.0), *points]
    nodes, tokens = max(options, key=lambda option: option[1] / seconds(option[0]))
    return Prediction(
        card=card.name,
        model=shape.name,
        workload=workload,
        streams=streams,
        graphs=graphs,
        speed_up=tokens * seconds(0.0) / seconds(nodes),
        nodes=nodes,
        tokens_per_step=tokens,
        plain_step_ms=1e3 * seconds(0.0),
    )


def predict_all(points: dict[str, Sequence[tuple[float, float]]]) -> list[Prediction]:
    """Every card, model, workload and number of streams that fits into memory."""
    return [
        predict(card, shape, name, points[name], streams=streams, graphs=graphs)
        for card in CARDS
        for shape in SHAPES
        for graphs in (False, True)
        for name in points
        for streams in BATCHES
        if fits(card, shape, streams, CONTEXT)
    ]


def measured_points(traces: Path, limit: int) -> dict[str, Sequence[tuple[float, float]]]:
    """Tokens per step against nodes, by workload, learning online."""
    return {
        name: trade_off("ours", name, load(traces, name, limit), "online").points
        for name in workloads(traces)
    }


def table(predictions: Sequence[Prediction], model: str, *, graphs: bool) -> Table:
    """Speed-ups of one model by card and workload, one column per number of streams."""
    how = "CUDA graphs" if graphs else "eager"
    title = f"PREDICTED speed-up of {model} by streams, {how}, {CONTEXT} tokens of context"
    result = Table("card", "workload", *map(str, BATCHES), title=title)
    chosen = [p for p in predictions if p.model == model and p.graphs == graphs]
    for card, workload in dict.fromkeys((p.card, p.workload) for p in chosen):
        row = {p.streams: p for p in chosen if (p.card, p.workload) == (card, workload)}
        result.add_row(
            card, workload, *(f"{row[n].speed_up:.2f}" if n in row else "" for n in BATCHES)
        )
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.replay.predict")
    parser.add_argument("--traces", type=Path, required=True, help="directory of *.jsonl.gz")
    parser.add_argument("--limit", type=int, default=30, help="requests per workload")
    parser.add_argument("--model", default="8B", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plot", type=Path, help="draw speed-up against streams")
    args = parser.parse_args()
    predictions = predict_all(measured_points(args.traces, args.limit))
    if args.json:
        print(json.dumps([asdict(p) for p in predictions], indent=1))
    else:
        for graphs in (False, True):
            Console(width=110).print(table(predictions, args.model, graphs=graphs))
    if args.plot is not None:
        plot_prediction(args.plot, [p for p in predictions if p.model == args.model])


if __name__ == "__main__":
    main()
