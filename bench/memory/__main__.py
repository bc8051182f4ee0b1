"""The shared memory measured over real processes and a private server: `python -m bench.memory`.

Latency from one drafter's close to another's trie, what a crash and faults of Redis cost, and the
rates, sizes and start times at ten million tokens, and what a flood of namespaces costs.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.memory.drafts import Drafting, drafting
from bench.memory.fault_servers import KINDS
from bench.memory.faults import fault_costs
from bench.memory.namespaces import namespaces
from bench.memory.plot import plot
from bench.memory.runs import agreement, crash, latency
from bench.memory.scale import scale
from bench.memory.server import server
from bench.memory.sizes import sizes


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="size of the scale figure")
    sections = ["latency", "agreement", "crash", "drafts", "faults", "sizes", "scale", "namespaces"]
    parser.add_argument("--only", choices=sections)
    parser.add_argument("--redis", choices=KINDS, nargs="+", help="faults of these servers only")
    parser.add_argument("--rounds", type=int, default=4, help="how often each fault is met")
    parser.add_argument("--namespaces", type=int, default=100_000, help="size of their flood")
    parser.add_argument("--plot", type=Path, help="draw the scale figure at several sizes here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.plot:
        points = [scale(options.tokens // share) for share in (100, 10, 3, 1)]
        plot(points, options.plot)
        print(json.dumps([asdict(point) for point in points], indent=2))
        return
    figures: dict[str, Callable[[], object]] = {
        "latency": latency,
        "agreement": agreement,
        "crash": crash,
        "drafts": drafts,
        "faults": lambda: fault_costs(options.redis or tuple(KINDS), options.rounds),
        "sizes": lambda: sizes(options.tokens),
        "scale": lambda: scale(options.tokens),
        "namespaces": lambda: namespaces(options.namespaces),
    }
    found = {
        name: asdict(measure())  # type: ignore[call-overload]
        for name, measure in figures.items()
        if options.only in (None, name)
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, fields in found.items():
        _print(name, fields)


def drafts() -> Drafting:
    """Time a drafter's replies while its memory learns in bulk and writes snapshots."""
    with server() as redis:
        return drafting(redis)


def _print(name: object, fields: dict[Any, Any], indent: str = "") -> None:
    """One line of numbers, then a line for each group of numbers."""
    groups = {key: value for key, value in fields.items() if isinstance(value, dict)}
    numbers = (f"{key}={_short(fields[key])}" for key in fields if key not in groups)
    print(f"{indent}{name}: " + "  ".join(numbers))
    for key, group in groups.items():
        _print(key, group, indent + "  ")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
