"""Proves that words and bits depend on their own request alone: `python -m bench.exactness`.

Small models of eight families with random weights, and the models named, decode greedily, sampled
and constrained. First plainly: one request after the other, from an empty cache. Then the same
requests with drafts, right and spoiled; in a batch of 8; with rows that another request left; with
the prompt read in other chunks. Token ids and the bits of log probabilities must be the same.
Exit status 1 means that some are not, of a model that says that it is bitwise.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from bench.exactness.random_models import FAMILIES, HYBRIDS, VOCABULARY, save_family
from bench.exactness.requests import LINES, ascii_grammars, make_requests
from bench.exactness.runs import NUM_SLOTS, running
from bench.exactness.ways import WAYS, Finding, Way, compare, plain_answers
from bench.serving.engine import running_drafter
from lookahead.stack.model_cache import resolve_model
from verifier.config import VerifierConfig
from verifier.constraints.grammar import Grammar
from verifier.engine.counters import Counters
from verifier.loading import load_model
from verifier.text.tokenizer import load_tokenizer

DTYPES = ("float32", "bfloat16")
# Requests that are compared at a time, and their lengths. A real model is hundreds of times larger.
SMALL, REAL = (24, 48), (8, 48)


async def compare_all(
    name: str,
    config: VerifierConfig,
    grammar: Grammar,
    drafter: str,
    *,
    num_tokens: int,
    shape: tuple[int, int],
    ways: Sequence[Way] = WAYS,
) -> list[Finding]:
    """Run a model in all ways, each until so many tokens are compared."""
    model, rng = load_model(config), random.Random(name)
    found = [Finding(name, config.dtype, way.name, is_bitwise=model.bitwise) for way in ways]
    while min(finding.num_compared for finding in found) < num_tokens:
        requests = make_requests(rng, *shape, model.vocabulary_size, grammar)
        async with running(model, config, drafter, Counters()) as engine:
            answers = await plain_answers(engine, requests)
        for way, finding in zip(ways, found, strict=True):
            settings = config.model_copy(update={"prefill_rows": way.prefill_rows})
            async with running(model, settings, drafter, Counters()) as engine:
                await compare(engine, finding, way, requests, answers, rng)
    return found


def small_findings(families: Sequence[str], dtypes: Sequence[str], total: int) -> Iterator[Finding]:
    """The families share the tokens."""
    num_tokens = total // (len(families) * len(dtypes) * len(WAYS))
    with running_drafter() as drafter, TemporaryDirectory(prefix="la-") as directory:
        for family in families:
            path = save_family(family, Path(directory))
            for dtype in dtypes:
                config = _config(path, dtype)
                grammar = ascii_grammars(VOCABULARY).compile(LINES)
                yield from asyncio.run(
                    compare_all(
                        family, config, grammar, drafter, num_tokens=num_tokens, shape=SMALL
                    )
                )


def real_findings(path: str, dtypes: Sequence[str], total: int) -> Iterator[Finding]:
    """A model with its own tokenizer."""
    num_tokens, grammar = total // (len(dtypes) * len(WAYS)), load_tokenizer(path).grammars
    with running_drafter() as drafter:
        for dtype in dtypes:
            yield from asyncio.run(
                compare_all(
                    Path(path).name,
                    _config(path, dtype),
                    grammar.compile(LINES),
                    drafter,
                    num_tokens=num_tokens,
                    shape=REAL,
                )
            )


def _config(path: str, dtype: str) -> VerifierConfig:
    settings: dict[str, Any] = {"dtype": dtype, "max_context": 512, "max_sequences": NUM_SLOTS}
    return VerifierConfig(model=path, **settings)


def table(found: Sequence[Finding]) -> Table:
    """The findings for the terminal."""
    names = ("num_compared", "num_accepted", "num_reused", "num_different")
    result = Table("model", "type", "way", "compared", "accepted", "reused", "different", "words")
    for one in found:
        numbers = [str(getattr(one, name)) for name in names]
        words = f"{one.num_other_words} of {one.num_answers} answers"
        result.add_row(one.model, one.dtype, one.way, *numbers, words)
    result.add_section()
    sums = [str(sum(getattr(one, name) for one in found)) for name in names]
    result.add_row("all", "", "", *sums, "", style="bold")
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.exactness", description=__doc__)
    parser.add_argument(
        "--model", action="append", default=[], help="a real model too: path, hub id, or demo"
    )
    parser.add_argument(
        "--families",
        default=",".join(FAMILIES),
        help=f"small ones; empty: none; also {', '.join(HYBRIDS)}, whose scans are not bitwise",
    )
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated")
    parser.add_argument("--tokens", type=int, default=200_000, help="compared on all families")
    parser.add_argument("--model-tokens", type=int, default=10_000, help="on each real model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    families = [name for name in args.families.split(",") if name]
    if unknown := set(families) - set(FAMILIES | HYBRIDS):
        known = ", ".join(FAMILIES | HYBRIDS)
        parser.error(f"--families: no {', '.join(sorted(unknown))}; {known}")
    logging.disable_progress_bar()
    found, progress, dtypes = [], Console(stderr=True), args.dtypes.split(",")
    real = [resolve_model(name, progress) for name in args.model]
    parts = [real_findings(path, dtypes, args.model_tokens) for path in real]
    if families:
        parts.insert(0, small_findings(families, dtypes, args.tokens))
    for part in parts:
        for one in part:
            different = f"{one.num_different} of {one.num_compared} tokens differ"
            progress.print(f"{one.model}, {one.dtype}, {one.way}: {different}")
            found.append(one)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        Console().print(table(found))
    sys.exit(1 if any(one.num_different for one in found if one.is_bitwise) else 0)


if __name__ == "__main__":
    main()
