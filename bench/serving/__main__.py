"""End to end, on a real model: every figure the engine has to reach, beside transformers' generate.

`python -m bench.serving [--json] [--only curve,one,...]`. What is compared is run in turn, and the
ratios are medians over the rounds: on a machine with other work only ratios mean something.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from bench.serving.calls import repeated_calls
from bench.serving.clients import clients
from bench.serving.engine import drafting_hop, measure_curve, overhead, step_curve
from bench.serving.figures import Figure, table
from bench.serving.generate import Generate
from bench.serving.host import host
from bench.serving.running_stack import running_stack
from bench.serving.streams import eight_streams, first_token, never_slower, one_stream
from lookahead import Client
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import resolve_model
from verifier.config import VerifierConfig
from verifier.loading import load_model
from verifier.model.model import TargetModel
from verifier.speculation.budget import StepCurve
from verifier.text.tokenizer import Tokenizer, load_tokenizer


@dataclass
class Lab:
    """What the sections share, each part made when it is first needed."""

    name: str
    rounds: int
    tokens: int
    streams: list[int]
    exits: ExitStack

    @cached_property
    def client(self) -> Client:
        """Of a running stack."""
        return self.exits.enter_context(running_stack(self.name))

    @cached_property
    def model(self) -> TargetModel:
        """The model as the verifier runs it, in this process."""
        settings: dict[str, Any] = {"model": self.name}
        return load_model(VerifierConfig(**settings))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return load_tokenizer(self.name)

    @cached_property
    def generate(self) -> Generate:
        """The stock model."""
        return Generate(self.name)

    @cached_property
    def curve(self) -> StepCurve:
        """Measured now."""
        return measure_curve(self.model, 4)


def _never_slower(lab: Lab) -> list[Figure]:
    # What is compared differs by a few percent, and so do single rounds by themselves.
    rounds = 3 * lab.rounds
    return [
        figure
        for streams in lab.streams
        for figure in never_slower(lab.client, streams, rounds=rounds, tokens=lab.tokens)
    ]


SECTIONS: dict[str, Callable[[Lab], list[Figure]]] = {
    "curve": lambda lab: step_curve(lab.model, lab.generate, rounds=lab.rounds),
    "one": lambda lab: one_stream(
        lab.client, lab.generate, lab.curve, rounds=lab.rounds, tokens=lab.tokens
    ),
    "eight": lambda lab: eight_streams(
        lab.client, lab.generate, rounds=lab.rounds, tokens=lab.tokens
    ),
    "never-slower": _never_slower,
    "calls": lambda lab: repeated_calls(lab.client, rounds=lab.rounds),
    "overhead": lambda lab: overhead(lab.model, lab.tokenizer, lab.curve, tokens=lab.tokens),
    "host": lambda lab: host(tokens=lab.tokens),
    "clients": lambda lab: clients(lab.tokenizer, rounds=lab.rounds, tokens=lab.tokens),
    "hop": lambda lab: drafting_hop(lab.tokenizer),
    "ttft": lambda lab: first_token(lab.client, rounds=lab.rounds, context=4000),
}


def run(lab: Lab, names: list[str]) -> Iterator[Figure]:
    """The figures of the named sections, as they are measured."""
    for name in names:
        yield from SECTIONS[name](lab)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.serving")
    parser.add_argument("--model", default=DEMO, help="demo, demo-gemma, a local path or hub id")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; never-slower: thrice")
    parser.add_argument("--tokens", type=int, default=48, help="tokens per request")
    parser.add_argument("--streams", default="1,4,8", help="of never-slower, comma-separated")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; {', '.join(SECTIONS)}")
    model = resolve_model(args.model, Console(stderr=True))
    streams = [int(n) for n in args.streams.split(",")]
    with ExitStack() as exits:
        lab = Lab(model, args.rounds, args.tokens, streams, exits)
        figures = list(run(lab, names))
    if args.json:
        print(json.dumps([asdict(f) | {"passes": f.passes} for f in figures], indent=1))
    else:
        Console().print(table(figures))


if __name__ == "__main__":
    main()
