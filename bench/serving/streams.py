"""Speeds through the whole local stack, as its clients see them."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from bench.serving.figures import Figure, median_ratio
from bench.serving.generate import Generate
from bench.serving.workloads import OPENINGS, copying, mixed
from lookahead import Client
from lookahead.client.requests import SpeculationMode
from lookahead.client.results import GenerationResult
from verifier.speculation.budget import StepCurve

LOOKUP_TOKENS = (3, 10)  # settings of transformers' prompt lookup; the better one counts
UNPREDICTABLE: dict[str, Any] = {"temperature": 2.0}
CREATIVE: dict[str, Any] = {"temperature": 0.9}


def decode(
    client: Client, prompts: Sequence[str], mode: SpeculationMode, tokens: int, **params: Any
) -> list[GenerationResult]:
    """Run all prompts at once; a prompt's place in the list is added to its seed."""

    def run(place: int) -> GenerationResult:
        own = params | ({"seed": params["seed"] + place} if "seed" in params else {})
        stream = client.generate(
            prompts[place],
            max_tokens=tokens,
            speculation=mode,
            ignore_eos=True,
            **({"learn": "none"} | own),
        )
        return stream.wait()

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(run, range(len(prompts))))


def decode_s(results: Sequence[GenerationResult]) -> float:
    """Seconds from the first token to the last, of sequences that ran together."""
    return max(result.timings.decode_ms for result in results) / 1e3


def one_stream(
    client: Client, generate: Generate, curve: StepCurve, *, rounds: int, tokens: int
) -> list[Figure]:
    """Plain, drafted, generate and its prompt lookup in turn, on prompts that copy."""
    figures: list[Figure] = []
    per_kind: dict[str, list[float]] = {"plain": [], "generate": [], "limit": []}
    for kind, prompts in copying().items():
        runs = [_round(client, generate, prompts, tokens) for _ in range(rounds)]
        plain, drafted, stock, lookup = (
            [run[i] for run in runs] for i in ("plain", "auto", "generate", "lookup")
        )
        results = [result for run in runs for result in run["results"]]
        gain = median_ratio(plain, drafted)
        per_kind["plain"].append(gain)
        per_kind["generate"].append(median_ratio(stock, drafted))
        per_kind["limit"].append(gain / _limit(results, curve))
        best = [min(pair) for pair in lookup]
        figures += [
            Figure("one", f"{kind}: plain / generate", median_ratio(stock, plain), at_least=1.0),
            Figure("one", f"{kind}: drafted / plain", gain),
            Figure("one", f"{kind}: drafted / generate", median_ratio(stock, drafted)),
            Figure(
                "one", f"{kind}: drafted / prompt lookup", median_ratio(best, drafted), at_least=1.3
            ),
            Figure("one", f"{kind}: tokens per step", _tokens_per_step(results), ""),
            Figure("one", f"{kind}: share of the limit", per_kind["limit"][-1], at_least=0.9),
        ]
    mean = statistics.mean
    return [
        *figures,
        Figure("one", "mean: drafted / generate", mean(per_kind["generate"]), at_least=3.0),
        Figure("one", "mean: drafted / plain", mean(per_kind["plain"]), at_least=2.0),
    ]


def _round(
    client: Client, generate: Generate, prompts: Sequence[str], tokens: int
) -> dict[str, Any]:
    """Seconds per token of each way, over the prompts, each run by itself; the drafted results."""
    seconds: dict[str, Any] = {"plain": 0.0, "auto": 0.0, "generate": 0.0}
    results: list[GenerationResult] = []
    lookups = [0.0] * len(LOOKUP_TOKENS)
    for prompt in prompts:
        ids = client.tokenize(prompt)
        seconds["plain"] += decode_s(decode(client, [prompt], "off", tokens)) / (tokens - 1)
        drafted = decode(client, [prompt], "auto", tokens)
        seconds["auto"] += decode_s(drafted) / (tokens - 1)
        results += drafted
        seconds["generate"] += generate.step_s([ids], tokens)
        for i, lookup in enumerate(LOOKUP_TOKENS):
            lookups[i] += generate.lookup_token_s(ids, tokens, lookup)
    return seconds | {"lookup": lookups, "results": results}


def _tokens_per_step(results: Sequence[GenerationResult]) -> float:
    steps = sum(result.speculation.num_steps for result in results)
    return sum(len(result.token_ids) - 1 for result in results) / steps


def _limit(results: Sequence[GenerationResult], curve: StepCurve) -> float:
    """What the tokens per step would gain if nothing but forward passes took time."""
    steps = sum(result.speculation.num_steps for result in results)
    rows = 1 + sum(result.speculation.num_draft_tokens for result in results) / steps
    return _tokens_per_step(results) * curve.plain_s / curve.at(rows)


def eight_streams(client: Client, generate: Generate, *, rounds: int, tokens: int) -> list[Figure]:
    """Plain decoding beside generate in a batch of 8; drafting on and off on mixed prompts."""
    prompts = mixed(8)
    ids = [client.tokenize(prompt) for prompt in prompts]
    seconds: dict[str, list[float]] = {"off": [], "auto": [], "generate": []}
    results: list[GenerationResult] = []
    for _ in range(rounds):
        seconds["off"].append(decode_s(decode(client, prompts, "off", tokens)))
        results = decode(client, prompts, "auto", tokens)
        # Streams that draft well end sooner: tokens per second over the whole run count.
        seconds["auto"].append(decode_s(results))
        seconds["generate"].append(generate.step_s(ids, tokens) * (tokens - 1))
    return [
        Figure(
            "eight",
            "plain / generate in a batch of 8",
            median_ratio(seconds["generate"], seconds["off"]),
            at_least=1.0,
        ),
        Figure(
            "eight", "drafted / plain", median_ratio(seconds["off"], seconds["auto"]), at_least=1.3
        ),
        Figure("eight", "tokens per step", _tokens_per_step(results), ""),
    ]


def never_slower(client: Client, streams: int, *, rounds: int, tokens: int) -> list[Figure]:
    """Drafting on and off in turn, same seeds, on text that little or nothing can predict.

    Every round decodes twice without drafts: what these differ by is the machine's own noise.
    """
    figures = []
    for kind, sampling in {"unpredictable": UNPREDICTABLE, "creative": CREATIVE}.items():
        for memory in ("cold", "warm"):
            prompts = [OPENINGS[i % len(OPENINGS)] for i in range(streams)]
            namespace = f"{kind}-{memory}-{streams}"
            if memory == "warm":
                _teach(client, namespace, prompts, tokens, sampling)
            seconds = {"plain": 0.0, "drafted": 0.0, "again": 0.0}
            for place in range(rounds):
                params = sampling | {"seed": 100 * place, "namespace": namespace}
                for name in _in_turn(place):
                    mode: SpeculationMode = "auto" if name == "drafted" else "off"
                    seconds[name] += decode_s(decode(client, prompts, mode, tokens, **params))
            figures += _beside_noise(f"{kind}, {memory}, {streams} streams", **seconds)
    return figures


def _beside_noise(name: str, plain: float, drafted: float, again: float) -> list[Figure]:
    """How drafting compares with plain decoding, and plain decoding with itself."""
    ratio = (plain + again) / 2 / drafted
    return [
        Figure("never-slower", f"{name}: drafted / plain", ratio, at_least=0.98),
        Figure("never-slower", f"{name}: plain / plain", plain / again),
    ]


def _in_turn(place: int) -> tuple[str, str, str]:
    """Each way of decoding has each place of the three in turn."""
    orders = (
        ("drafted", "plain", "again"),
        ("again", "drafted", "plain"),
        ("plain", "again", "drafted"),
    )
    return orders[place % 3]


def _teach(
    client: Client, namespace: str, prompts: Sequence[str], tokens: int, sampling: dict[str, Any]
) -> None:
    for seed in (7000, 8000):
        learnt = sampling | {"seed": seed, "namespace": namespace, "learn": "all"}
        decode(client, prompts, "auto", tokens, **learnt)


def first_token(client: Client, *, rounds: int, context: int) -> list[Figure]:
    """Time to the first token of a short prompt, alone and while a long one is being read."""
    vocabulary = client.model().vocabulary_size

    def noise(seed: int, length: int) -> list[int]:
        return [2 + (seed * 7919 + i * i * 31 + i * 17) % (vocabulary - 2) for i in range(length)]

    def ttft_s(seed: int) -> float:
        started = time.perf_counter()
        client.generate(token_ids=noise(seed, 64), max_tokens=1, learn="none").wait()
        return time.perf_counter() - started

    alone = [ttft_s(seed) for seed in range(rounds)]
    beside: list[float] = []
    for seed in range(rounds):
        with closing(
            client.generate(token_ids=noise(9000 + seed, context), max_tokens=1, learn="none")
        ):
            # At another moment of a running pass each time.
            time.sleep(0.5 + 0.11 * seed)
            beside.append(ttft_s(1000 + seed))
    ratio = statistics.median(beside) / statistics.median(alone)
    return [
        Figure("ttft", "short prompt alone, median", 1e3 * statistics.median(alone), "ms"),
        Figure("ttft", f"beside {context} tokens, median", 1e3 * statistics.median(beside), "ms"),
        Figure("ttft", f"beside {context} tokens, slowest", 1e3 * max(beside), "ms"),
        Figure("ttft", "beside / alone", ratio, at_most=2.0),
    ]
