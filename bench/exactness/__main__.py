"""Compares very many words with the model's own: `python -m bench.exactness [--json]`.

Requests of all kinds run together: they join, leave, hang up, share prefixes, wait for slots. What
they say is compared token by token:

- float32: greedy, with transformers' generate;
- exact, in bfloat16 and float16: greedy and sampled, ids and log probabilities to the bit, with
  the same engine without drafts;
- guarded, in both: greedy, with the same engine without drafts. Here plain decoding is not equal
  to itself either, since its rounding depends on who else is in a pass: a difference must be a
  near tie.

The drafts come from a drafter, which is told the right answer for some requests and a spoiled one
for others. A difference comes with the gap, in log probability, between its two tokens.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from bench.exactness.random_models import save_all
from bench.exactness.runs import (
    GREEDY,
    NUM_SLOTS,
    SAME_LENGTH,
    Said,
    collect,
    drafted,
    make_prompts,
    make_request,
    run_all,
    running_engine,
)
from bench.serving.engine import running_drafter
from bench.serving.generate import Generate
from lookahead.stack.model_cache import DEMO, resolve_model
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.request import Exactness, Request
from verifier.sampling.params import SamplingParams

# Requests that are compared at a time, and their lengths. A real model is hundreds of times larger,
# and slow in bfloat16 on CPUs without instructions for it.
SMALL, REAL = (32, 200), (16, 48)
SAMPLED = [SamplingParams(temperature=0.8, top_p=0.95, seed=seed) for seed in range(SMALL[0])]


@dataclass(frozen=True, slots=True)
class Way:
    """How the words are decoded, and what they are compared with."""

    name: str
    dtype: str
    exactness: Exactness = Exactness.GUARDED
    is_judged_by_generate: bool = False
    compares_bits: bool = False
    samples: bool = False


def _short(dtype: str) -> dict[str, Way]:
    """Ways in a format of 16 bits."""
    exact = Way(f"{dtype} exact", dtype, Exactness.EXACT, compares_bits=True, samples=True)
    guarded = Way(f"{dtype} guarded", dtype)
    return {way.name.replace(" ", "-"): way for way in (exact, guarded)}


WAYS = {
    "float32": Way("float32", "float32", is_judged_by_generate=True),
    **_short("bfloat16"),
    **_short("float16"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two outputs part."""

    place: int
    gap: float  # in log probability, between the token that was wanted and the one that came


@dataclass
class Finding:
    """A model decoded in one way."""

    model: str
    way: str
    margin: float  # choices closer than this are near ties, by what was measured of the model
    num_compared: int = 0
    num_accepted: int = 0
    num_rechecks: int = 0
    num_reused: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """How many differences there are, and whether they are near ties."""
        if not self.differences:
            return "none"
        largest = max(each.gap for each in self.differences)
        kind = "near ties" if largest <= self.margin else "NOT near ties"
        return (
            f"{len(self.differences)}, {kind}: gaps up to {largest:.2g}, margin {self.margin:.2g}"
        )

    def count(self, said: Sequence[Said]) -> None:
        """Add outputs that were compared."""
        self.num_compared += sum(len(one.token_ids) for one in said)
        self.num_accepted += sum(one.num_accepted for one in said)
        self.num_rechecks += sum(one.num_rechecks for one in said)
        self.num_reused += sum(one.num_reused for one in said)


class Comparison:
    """Rounds of requests on one engine, counted in a finding."""

    def __init__(self, engine: Engine, generate: Generate, way: Way, finding: Finding) -> None:
        self.finding = finding
        self._engine = engine
        self._generate = generate
        self._way = way
        self._rng = random.Random(f"{finding.model}/{way.name}")

    async def round(self, num_requests: int, output_len: int) -> None:
        """Decode so many tokens of each of so many prompts, and compare them."""
        prompts = make_prompts(self._rng, num_requests, self._engine.model.vocabulary_size)
        plain = [
            make_request(prompt, output_len, sampling, self._way.exactness)
            for prompt, sampling in zip(prompts, self._sampling(num_requests), strict=True)
        ]
        wanted = await self._wanted(plain)
        said = await run_all(self._engine, drafted(plain, wanted, self._rng), self._rng)
        self.finding.count(said)
        for request, one, other in zip(plain, wanted, said, strict=True):
            await self._compare(request, one, other)

    def _sampling(self, count: int) -> list[SamplingParams]:
        if not self._way.samples:
            return [GREEDY] * count
        return [GREEDY if place % 2 else SAMPLED[place] for place in range(count)]

    async def _wanted(self, plain: list[Request]) -> list[Said]:
        if not self._way.is_judged_by_generate:
            return await run_all(self._engine, plain, self._rng)
        prompts = [list(request.prompt_token_ids) for request in plain]
        batches = [prompts[i : i + SAME_LENGTH] for i in range(0, len(prompts), SAME_LENGTH)]
        num_tokens = plain[0].stopping.max_tokens
        return [
            Said(ids)
            for batch in batches
            for ids in await asyncio.to_thread(self._generate.greedy, batch, num_tokens)
        ]

    async def _compare(self, request: Request, wanted: Said, got: Said) -> None:
        place = _first_difference(wanted, got, bits=self._way.compares_bits)
        if place is not None and self._way.is_judged_by_generate:
            # In a batch generate itself may round otherwise; alone it is beyond dispute.
            prompt = list(request.prompt_token_ids)
            wanted = Said(self._generate.greedy([prompt], request.stopping.max_tokens)[0])
            place = _first_difference(wanted, got, bits=False)
        if place is not None:
            gap = await self._gap(request, wanted.token_ids, got.token_ids[place], place)
            self.finding.differences.append(Difference(place, gap))

    async def _gap(self, request: Request, wanted: list[int], other: int, place: int) -> float:
        """How much less probable plain decoding finds the other token, in log probability."""
        context = [*request.prompt_token_ids, *wanted[:place]]
        next_token = make_request(context, 1, GREEDY, self._way.exactness, num_top_logprobs=20)
        top = dict((await collect(self._engine, next_token)).top)
        return top.get(wanted[place], math.inf) - top.get(other, -math.inf)


def _first_difference(wanted: Said, got: Said, *, bits: bool) -> int | None:
    pairs = zip(wanted.token_ids, got.token_ids, strict=True)
    places = [place for place, (one, other) in enumerate(pairs) if one != other]
    if bits:
        both = zip(wanted.logprobs, got.logprobs, strict=True)
        places += [place for place, (one, other) in enumerate(both) if one != other]
    return min(places, default=None)


async def compare(
    name: str, path: str, way: Way, drafter: str, *, num_tokens: int, shape: tuple[int, int]
) -> Finding:
    """Decode and compare until there are so many tokens."""
    settings: dict[str, Any] = {"dtype": way.dtype, "max_context": 512}
    config = VerifierConfig(model=path, max_sequences=NUM_SLOTS, **settings)
    async with running_engine(config, drafter, Counters()) as (engine, margin):
        finding = Finding(name, way.name, margin)
        rounds = Comparison(engine, Generate(path), way, finding)
        while finding.num_compared < num_tokens:
            await rounds.round(*shape)
    return finding


def findings(ways: Sequence[Way], num_tokens: int, real: str) -> Iterator[Finding]:
    """Every way of every model; the small ones share the tokens, the real one has a few."""
    with running_drafter() as drafter, TemporaryDirectory(prefix="la-") as directory:
        small = dict(save_all(Path(directory)))
        for way in ways:
            for name, path in small.items():
                part = num_tokens // len(small)
                yield asyncio.run(compare(name, path, way, drafter, num_tokens=part, shape=SMALL))
            yield asyncio.run(
                compare("real", real, way, drafter, num_tokens=num_tokens // 100, shape=REAL)
            )


def table(found: Sequence[Finding]) -> Table:
    """The findings for the terminal."""
    result = Table("way", "model", "compared", "accepted", "rechecked", "reused", "differences")
    for one in found:
        numbers = (one.num_compared, one.num_accepted, one.num_rechecks, one.num_reused)
        result.add_row(
            one.way,
            one.model,
            *map(str, numbers),
            one.verdict,
        )
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.exactness", description=__doc__)
    parser.add_argument("--model", default=DEMO, help="the real model: path, hub id, or the demo")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, comma-separated")
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens of each way")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(WAYS):
        parser.error(f"--only: no way {', '.join(sorted(unknown))}; {', '.join(WAYS)}")
    # Generate is given an ending id that no token has, and says so each time.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    real = resolve_model(args.model, Console(stderr=True))
    found, progress = [], Console(stderr=True)
    for one in findings([WAYS[name] for name in names], args.tokens, real):
        progress.print(f"{one.way}, {one.model}: {one.num_compared} tokens, {one.verdict}")
        found.append(one)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        Console().print(table(found))


if __name__ == "__main__":
    main()
