"""End to end, on a real model: plain decoding, drafting, and transformers' own generate.

`python -m bench.serve [--json]` starts the local stack and decodes each workload in turn with
drafting off and on, interleaved, then the same prompts with `generate`, without and with its
prompt lookup. Speeds are decoded tokens per second; ratios are medians over the rounds.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from lookahead import Client
from lookahead.model_cache import DEMO, resolve_model
from lookahead.results import GenerationResult
from lookahead.samples import load_samples
from lookahead.stack import NO_REDIS, Stack, StackConfig

PROMPTS = Path(__file__).parent / "prompts"
STORY = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals"
Mode = Literal["off", "auto"]
LOOKUP_TOKENS = (3, 10)  # settings of transformers' prompt lookup; the better one counts


@dataclass(frozen=True, slots=True)
class Row:
    """One workload at one number of streams; speeds in decoded tokens per second."""

    workload: str
    streams: int
    plain: float
    drafted: float
    ratio: float
    tokens_per_step: float
    same_text: bool
    generate: float | None = None
    prompt_lookup: float | None = None


def workloads(vocabulary_size: int) -> dict[str, list[str] | list[list[int]]]:
    """Prompts by kind: those that copy, and those where little or nothing can be predicted."""
    documents = [sample.text for sample in load_samples()]
    rng = random.Random(0)
    noise = [[2, *(rng.randrange(1000, vocabulary_size) for _ in range(80))] for _ in range(2)]
    return {
        "retrieval": documents[:2],
        "JSON": documents[2:],
        "code edit": [(PROMPTS / "edit.txt").read_text()],
        "creative": [STORY, "My favourite thing about the sea is"],
        "random": noise,
    }


def measure(
    client: Client, prompts: list[str] | list[list[int]], mode: Mode, *, streams: int, tokens: int
) -> tuple[float, list[GenerationResult]]:
    """Decode all prompts `streams` at a time; return tokens per second and the results."""

    def run(prompt: str | list[int]) -> GenerationResult:
        source: dict[str, Any] = (
            {"prompt": prompt} if isinstance(prompt, str) else {"token_ids": prompt}
        )
        return client.generate(
            **source, max_tokens=tokens, speculation=mode, learn="none", ignore_eos=True
        ).wait()

    repeated = [prompts[i % len(prompts)] for i in range(max(streams, len(prompts)))]
    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        results = list(pool.map(run, repeated))
    wall_s = time.perf_counter() - started
    if streams == 1:
        decode_s = sum(result.timings.decode_ms for result in results) / 1e3
        return sum(len(result.token_ids) - 1 for result in results) / decode_s, results
    return sum(len(result.token_ids) for result in results) / wall_s, results


def compare(
    client: Client, name: str, prompts: list[str] | list[list[int]], streams: int, tokens: int
) -> Row:
    """Measure drafting off and on, three times in turn."""
    speeds: dict[Mode, list[float]] = {"off": [], "auto": []}
    texts: dict[Mode, list[tuple[int, ...]]] = {}
    for _ in range(3):
        for mode, values in speeds.items():
            speed, results = measure(client, prompts, mode, streams=streams, tokens=tokens)
            values.append(speed)
            texts[mode] = [tuple(result.token_ids) for result in results]
    steps = sum(result.speculation.num_steps for result in results)
    return Row(
        name,
        streams,
        plain=statistics.median(speeds["off"]),
        drafted=statistics.median(speeds["auto"]),
        ratio=statistics.median(a / b for a, b in zip(speeds["auto"], speeds["off"], strict=True)),
        tokens_per_step=sum(len(result.token_ids) - 1 for result in results) / steps,
        same_text=texts["off"] == texts["auto"],
    )


def generate_speed(model: Any, prompts: list[list[int]], tokens: int, lookup: int | None) -> float:
    """Decoded tokens per second of transformers' generate, prefill taken off."""
    decoded, seconds = 0, 0.0
    for prompt in prompts:
        first_s = _generate_s(model, prompt, 1, None)[1]
        num_tokens, all_s = _generate_s(model, prompt, tokens, lookup)
        decoded += num_tokens - 1
        seconds += max(all_s - first_s, 1e-9)
    return decoded / seconds


def _generate_s(
    model: Any, prompt: list[int], tokens: int, lookup: int | None
) -> tuple[int, float]:
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=tokens,
            min_new_tokens=tokens if lookup is None else None,
            do_sample=False,
            top_k=None,
            top_p=None,
            prompt_lookup_num_tokens=lookup,
        )
    return output.shape[1] - len(prompt), time.perf_counter() - started


@contextmanager
def running_stack(model: str) -> Iterator[Client]:
    """The local stack without Redis, and a client of it."""
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig(
            model=model,
            directory=Path(directory),
            redis_dir=Path(directory) / "redis",
            verifier_address=f"unix:{directory}/v.sock",
            drafter_address=f"unix:{directory}/d.sock",
            redis=NO_REDIS,
            environ=os.environ,
        )
        stack = Stack(config)
        try:
            stack.start()
            with Client(config.verifier_address) as client:
                yield client
        finally:
            stack.stop()


def run(model: str, streams: list[int], tokens: int) -> list[Row]:
    """All workloads at all numbers of streams, then generate on one stream."""
    rows, ids = [], {}
    with running_stack(model) as client:
        kinds = workloads(client.model().vocabulary_size)
        client.generate(STORY, max_tokens=8, learn="none").wait()
        for count in streams:
            rows += [
                compare(client, name, prompts, count, tokens) for name, prompts in kinds.items()
            ]
        for name, prompts in kinds.items():
            ids[name] = [p if isinstance(p, list) else client.tokenize(p) for p in prompts]
    hf: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    hf.eval()
    return [with_generate(hf, row, ids[row.workload], tokens) for row in rows]


def with_generate(hf: Any, row: Row, prompts: list[list[int]], tokens: int) -> Row:
    """Add what generate reaches on the same prompts, on one stream."""
    if row.streams != 1:
        return row
    best_lookup = max(generate_speed(hf, prompts, tokens, n) for n in LOOKUP_TOKENS)
    plain = generate_speed(hf, prompts, tokens, None)
    return Row(**(asdict(row) | {"generate": plain, "prompt_lookup": best_lookup}))


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    result = Table("workload", "streams", "plain", "drafted", "ratio", "tokens/step", "same text")
    result.add_column("generate")
    result.add_column("prompt lookup")
    for row in rows:
        speeds = (row.generate, row.prompt_lookup)
        result.add_row(
            row.workload,
            str(row.streams),
            f"{row.plain:.1f}",
            f"{row.drafted:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.tokens_per_step:.2f}",
            "yes" if row.same_text else "NO",
            *("" if speed is None else f"{speed:.1f}" for speed in speeds),
        )
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.serve")
    parser.add_argument("--model", default=DEMO, help="local path, hub id, or the demo model")
    parser.add_argument("--streams", default="1,4,8", help="numbers of streams, comma-separated")
    parser.add_argument("--tokens", type=int, default=96, help="tokens per request")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    model = resolve_model(args.model, Console(stderr=True))
    rows = run(model, [int(n) for n in args.streams.split(",")], args.tokens)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console().print(table(rows))


if __name__ == "__main__":
    main()
