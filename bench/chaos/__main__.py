"""Attack a running stack in every way that docs/reliability.md promises it stands: `make chaos`.

Each section starts a stack of real processes with a small model and does one kind of harm to it.
The command ends with status 1 where a bar is missed. `--short` does a little of each, in minutes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.chaos.cancels import cancels
from bench.chaos.flood import flood
from bench.chaos.inputs import inputs
from bench.chaos.killed import killed
from bench.chaos.listener import listener
from bench.chaos.namespaces import many_namespaces
from bench.chaos.neighbours import neighbours
from bench.chaos.page import PLACE, markdown
from bench.chaos.rolling import rolling
from bench.chaos.silent import silent
from bench.chaos.soak import soak
from bench.marked_place import fill
from bench.serving.figures import Figure, table

Measure = Callable[[], list[Figure]]


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of harm, at full length and in short."""

    whole: Measure
    short: Measure


def sections(seed: int) -> dict[str, Section]:
    """All of them, the shortest first."""
    return {
        "silent": Section(silent, partial(silent, 0.05)),
        "flood": Section(flood, partial(flood, 2.0)),
        "rolling": Section(partial(rolling, 3), rolling),
        "namespaces": Section(partial(many_namespaces, 100_000), partial(many_namespaces, 500)),
        "cancels": Section(partial(cancels, 20_000, seed), partial(cancels, 300, seed)),
        "listener": Section(partial(listener, 5), partial(listener, 1)),
        "neighbours": Section(partial(neighbours, 1600, seed), partial(neighbours, 40, seed)),
        "killed": Section(partial(killed, 200), partial(killed, 1)),
        "inputs": Section(partial(inputs, 100_000, seed), partial(inputs, 200, seed)),
        "soak": Section(partial(soak, 1800.0, seed), partial(soak, 20.0, seed)),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.chaos")
    parser.add_argument("--only", help="sections, comma-separated; default: all")
    parser.add_argument("--short", action="store_true", help="a little of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures to this file")
    parser.add_argument("--saved", type=Path, metavar="FILE", help="measure nothing; read these")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the page's table")
    args = parser.parse_args()
    known = sections(args.seed)
    names = args.only.split(",") if args.only else list(known)
    if unknown := set(names) - set(known):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; {', '.join(known)}")
    found = _saved(args.saved or args.json)
    if not args.saved:
        for name in names:
            section = known[name]
            found[name] = (section.short if args.short else section.whole)()
            Console().print(table(found[name]))
            if args.json:
                _save(args.json, found)
    if args.markdown:
        fill(args.markdown, PLACE, markdown(found))
    sys.exit(any(figure.passes is False for figures in found.values() for figure in figures))


def _saved(file: Path | None) -> dict[str, list[Figure]]:
    if file is None or not file.exists():
        return {}
    saved = json.loads(file.read_text())
    return {name: [Figure(**fields) for fields in figures] for name, figures in saved.items()}


def _save(file: Path, found: dict[str, list[Figure]]) -> None:
    figures = {name: [asdict(figure) for figure in some] for name, some in found.items()}
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
