"""Our stack beside vLLM and llama.cpp: the same weights, the same prompts, this machine.

The peers are installed into environments of their own, once. All systems are loaded, and one
computes at a time, in turn. A peer that cannot run is left out, with the reason.
"""

import argparse
from pathlib import Path

from rich.console import Console

from bench.marked_place import fill
from bench.plots import plot_bars
from bench.serving.peers.page import place, tables
from bench.serving.peers.report import Report, load_report
from bench.serving.peers.run import DTYPES, Plan, run
from bench.serving.peers.table import bars, grids
from bench.serving.peers.tasks import TASKS
from lookahead.stack.demo_models import DEMO, DEMO_MODELS, ModelUnavailable

WIDTH = 160  # of tables in a file


def main() -> None:
    """Run from the command line."""
    parser = _parser()
    args = parser.parse_args()
    tasks = args.only.split(",")
    if unknown := set(tasks) - set(TASKS):
        parser.error(f"--only: no task {', '.join(sorted(unknown))}; {', '.join(TASKS)}")
    plan = Plan(args.model, args.dtype or DTYPES, tasks, args.rounds, args.tokens)
    try:
        report = load_report(args.saved) if args.saved else run(plan, Console(stderr=True))
    except ModelUnavailable as error:
        parser.exit(1, f"{error}\n")
    _show(report, args)


def _show(report: Report, args: argparse.Namespace) -> None:
    if args.json:
        report.save(args.json)
    if args.plot:
        plot_bars(args.plot, bars(report))
    if args.markdown:
        fill(args.markdown, place(report), tables(report))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for grid in grids(report):
        console.print(grid.terminal())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.serving.peers")
    add = parser.add_argument
    add("--model", default=DEMO, help=f"{', '.join(DEMO_MODELS)}, a local path or a hub id")
    add("--dtype", action="append", choices=DTYPES, help="may be repeated; default: both")
    add("--rounds", type=int, default=3, help="interleaved")
    add("--tokens", type=int, default=64, help="tokens per answer")
    add("--only", default=",".join(TASKS), help="tasks, comma-separated")
    add("--json", type=Path, metavar="FILE", help="write every sample as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw milliseconds a token as a PNG file")
    add("--markdown", type=Path, metavar="PAGE", help="fill the model's marked place in a page")
    add("--saved", type=Path, metavar="FILE", help="show a JSON file instead of measuring")
    return parser


if __name__ == "__main__":
    main()
