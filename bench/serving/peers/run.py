"""One run of the comparison: systems are loaded for one type of the weights after the other."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from bench.serving.peers.environment import Environment, python_of
from bench.serving.peers.report import Report, Skipped, machine
from bench.serving.peers.rounds import Rounds
from bench.serving.peers.samples import Sample, token_ms, tokens_per_s
from bench.serving.peers.tasks import DECODED, Prompts, tokenized
from bench.serving.peers.ways import PEERS, start_ours, start_peer
from bench.serving.peers.weights import Weights, find_weights
from bench.serving.peers.worker import PeerUnavailable
from bench.serving.running_stack import running_stack
from lookahead import Client
from lookahead.stack.model_cache import cache_directory

DTYPES = ("float32", "bfloat16")
OURS = "lookahead-serving"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    model: str
    dtypes: Sequence[str]
    tasks: Sequence[str]
    rounds: int
    tokens: int


@dataclass(slots=True)
class Comparison:
    """What is compared, and what came of it so far."""

    plan: Plan
    weights: Weights
    console: Console
    pythons: dict[Environment, Path] = field(default_factory=dict)
    broken: dict[Environment, str] = field(default_factory=dict)  # why there is no Python of it
    samples: list[Sample] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def install(self) -> None:
        """Make the peers' environments where they were never finished."""
        for environment in dict.fromkeys(PEERS.values()):
            try:
                self.pythons[environment] = python_of(environment, self.console)
            except PeerUnavailable as error:
                self.broken[environment] = str(error)

    def measure(self, dtype: str) -> None:
        """Do all rounds with weights of one type."""
        with ExitStack() as exits:
            rounds, prompts = self._loaded(dtype, exits)
            plan = self.plan
            for sample in rounds.measure(prompts, set(plan.tasks), plan.rounds, plan.tokens):
                self.samples.append(sample)
                self.console.print(_line(sample), highlight=False)
        self.skipped += [Skipped(dtype, way.name, why) for way, why in rounds.skipped.items()]

    def _loaded(self, dtype: str, exits: ExitStack) -> tuple[Rounds, Prompts]:
        """Load one system after the other; ours first, which measures its steps at its start."""
        self._say(f"starting ours in {dtype}")
        client = exits.enter_context(_our_stack(self.weights, dtype))
        rounds = Rounds(dtype, start_ours(client))
        for way, environment in PEERS.items():
            if environment in self.broken:
                rounds.skipped[way] = self.broken[environment]
                continue
            self._say(f"starting {way.name} in {dtype}")
            try:
                python = self.pythons[environment]
                rounds.systems[way] = exits.enter_context(
                    start_peer(way, python, self.weights, dtype)
                )
            except PeerUnavailable as error:
                rounds.skipped[way] = str(error)
        return rounds, tokenized(client)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False)


def run(plan: Plan, console: Console) -> Report:
    """Measure everything."""
    comparison = Comparison(plan, find_weights(plan.model, console), console)
    comparison.install()
    for dtype in plan.dtypes:
        comparison.measure(dtype)
    return Report(
        comparison.weights.name,
        machine(),
        {OURS: version(OURS)} | {each.name: each.version for each in comparison.pythons},
        plan.rounds,
        plan.tokens,
        comparison.skipped,
        comparison.samples,
    )


@contextmanager
def _our_stack(weights: Weights, dtype: str) -> Iterator[Client]:
    """Ours, with a cache of its own: its steps are measured on this machine as it is now."""
    hub = os.environ.get("HF_HOME", str(cache_directory().parent / "huggingface"))
    with (
        TemporaryDirectory(prefix="la-") as cache,
        running_stack(
            str(weights.checkpoint),
            LOOKAHEAD_VERIFIER_DTYPE=dtype,
            XDG_CACHE_HOME=cache,
            HF_HOME=hub,
        ) as client,
    ):
        yield client


def _line(sample: Sample) -> str:
    speed = f"{tokens_per_s(sample):.0f} tokens/s"
    if sample.task in DECODED:
        speed = f"{token_ms(sample):.1f} ms a token"
    return f"{sample.dtype}, round {sample.round + 1}, {sample.task}: {sample.row.name} {speed}"
