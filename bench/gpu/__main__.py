"""Measures on a GPU what is served: `python -m bench.gpu --out DIR --deadline SECONDS`.

Models of real shapes get random weights on the device; nothing is downloaded. Sections run in order
of worth, each with a time limit of its own, and DIR/gpu.json holds all results after each of them.
Sections that run again in the same folder replace their results from before.
"""

import argparse
import os
import sys
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from bench.gpu.bugs import bugs
from bench.gpu.build import build
from bench.gpu.curves import curves
from bench.gpu.exactness import exactness
from bench.gpu.families import families
from bench.gpu.lab import Lab
from bench.gpu.machine import device_name, machine
from bench.gpu.memory import memory
from bench.gpu.overhead import overhead
from bench.gpu.profile import profiled
from bench.gpu.replay import replay
from bench.gpu.report import Report
from bench.gpu.runner import DeviceGone, Runner, Section
from bench.gpu.sizes import FULL, SMALL

SECTIONS = (
    Section("machine", 15, machine),
    Section("bugs", 60, bugs),
    Section("families", 60, families),
    Section("build", 40, build),
    Section("curves", 90, curves),
    Section("exactness", 60, exactness),
    Section("replay", 120, replay),
    Section("overhead", 20, overhead),
    Section("memory", 15, memory),
    Section("profile", 15, profiled),
)


def main() -> None:
    """Run from the command line."""
    args = parse(sys.argv[1:])
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out, setup(args))
    try:
        with ExitStack() as exits:
            lab = make_lab(args, exits)
            with suppress(AssertionError, OSError):  # who needs it will say why there is none
                _ = lab.drafter  # it compiles its kernels meanwhile
            Runner(lab, report).run(args.sections, deadline_s=args.deadline)
    except DeviceGone as gone:
        print(gone, flush=True)
        again = ["--sections", ",".join(gone.left), "--deadline", str(gone.left_s)]
        os.execv(sys.executable, [sys.executable, "-m", "bench.gpu", *sys.argv[1:], *again])
    print("\n".join(report.table()))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; SystemExit where it asks for what there is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--deadline", type=float, required=True, help="seconds for all sections")
    parser.add_argument("--sections", type=_sections, default=SECTIONS, help="comma-separated")
    parser.add_argument("--traces", type=Path, help="directory of *.jsonl.gz; else made answers")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model, few rounds")
    parser.add_argument("--shape", choices=("8b", "0.6b"), default="8b")
    args = parser.parse_args(arguments)
    if args.device == "cpu" and not args.small:
        parser.error("--device cpu: the shapes are a GPU's; add --small")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --small shows that all sections run")
    if args.traces is not None and not args.traces.is_dir():
        parser.error(f"--traces: there is no directory {args.traces}")
    return args


def _sections(names: str) -> tuple[Section, ...]:
    wanted = names.split(",")
    known = {section.name for section in SECTIONS}
    if unknown := set(wanted) - known:
        raise argparse.ArgumentTypeError(f"no section {', '.join(sorted(unknown))}")
    return tuple(section for section in SECTIONS if section.name in wanted)


def setup(args: argparse.Namespace) -> dict[str, object]:
    """What results depend on: those of another setup do not go into the same file."""
    return {
        "device": device_name(torch.device(args.device)),
        "shape": "tiny" if args.small else args.shape,
        "answers": "recorded" if args.traces else "made",
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def make_lab(args: argparse.Namespace, exits: ExitStack) -> Lab:
    """What the sections measure with."""
    if args.device == "cpu":
        torch.set_num_threads(1)  # a tiny model's threads would wait for each other
    return Lab(
        device=torch.device(args.device),
        shape="tiny" if args.small else args.shape,
        small_shape="tiny" if args.small else "0.6b",
        sizes=SMALL if args.small else FULL,
        out=args.out,
        traces=args.traces,
        exits=exits,
    )


if __name__ == "__main__":
    main()
