"""Ours over the peers': medians of the ratios of each round, and the bars they have to meet."""

import statistics
from collections.abc import Iterator, Sequence

from bench.serving.figures import Figure
from bench.serving.peers.report import Report
from bench.serving.peers.samples import Row, token_ms, tokens_per_step
from bench.serving.peers.tasks import DECODED, READ_LENS, STREAMS, read_name

PLAIN, COLD, WARM = (
    Row("ours", "plain"),
    Row("ours", "drafted", "cold"),
    Row("ours", "drafted", "warm"),
)
VLLM_PLAIN, VLLM_NGRAM = Row("vLLM", "plain"), Row("vLLM", "n-gram")
VLLM_COLD, VLLM_WARM = Row("vLLM", "suffix", "cold"), Row("vLLM", "suffix", "warm")
LLAMA_PLAIN, LLAMA_COLD = Row("llama.cpp", "plain"), Row("llama.cpp", "ngram-mod", "cold")
LLAMA_WARM = Row("llama.cpp", "ngram-mod", "warm")
COPYING = DECODED[:3]  # the workloads that have bars; in the others there is less to draft


def ratios(report: Report) -> list[Figure]:
    """All ratios that the samples allow."""
    figures = [figure for dtype in report.dtypes() for figure in _of_type(report, dtype)]
    return figures + list(_between_types(report))


def _of_type(report: Report, dtype: str) -> Iterator[Figure]:
    for task in report.tasks():
        if task in DECODED:
            yield from _drafted(report, dtype, task)
    yield from _plain_step(report, dtype)
    yield from _speeds(report, dtype)


def _drafted(report: Report, dtype: str, task: str) -> Iterator[Figure]:
    """Milliseconds a token over the best peer's, with the memory cold and warm."""
    comparisons = {
        "drafted / vLLM's best speculation, cold": (COLD, (VLLM_NGRAM, VLLM_COLD), 0.8),
        "drafted / llama.cpp's best, plain or cold": (COLD, (LLAMA_PLAIN, LLAMA_COLD), 0.7),
        "drafted / vLLM's suffix decoding, warm": (WARM, (VLLM_WARM,), None),
        "drafted / llama.cpp's ngram-mod, warm": (WARM, (LLAMA_WARM,), None),
        "drafted / plain, both ours": (COLD, (PLAIN,), None),
    }
    for name, (ours, peers, bar) in comparisons.items():
        ratio = over_best(report, dtype, task, ours, peers)
        if ratio is not None:
            at_most = bar if task in COPYING else None
            yield Figure(dtype, f"{task}: {name}", ratio, at_most=at_most)


def _plain_step(report: Report, dtype: str) -> Iterator[Figure]:
    """Of one stream, over all workloads: a plain step does the same whatever the words are."""
    for peer, bar in ((VLLM_PLAIN, 1.3), (LLAMA_PLAIN, None)):
        found = [
            over_best(report, dtype, task, PLAIN, (peer,))
            for task in report.tasks()
            if task in DECODED
        ]
        known = [ratio for ratio in found if ratio is not None]
        if known:
            name = f"plain step / {peer.system}'s plain step"
            yield Figure(dtype, name, statistics.median(known), at_most=bar)


def _speeds(report: Report, dtype: str) -> Iterator[Figure]:
    """Tokens a second over the best peer's; bars are for float32."""
    comparisons: list[tuple[str, str, Row, Sequence[Row], float]] = [
        (STREAMS, "drafted / vLLM's best, plain or n-gram", COLD, (VLLM_PLAIN, VLLM_NGRAM), 1.1)
    ]
    for length in READ_LENS:
        comparisons.append((read_name(length), "ours / vLLM", PLAIN, (VLLM_PLAIN,), 0.95))
    for task, name, ours, peers, bar in comparisons:
        slowness = over_best(report, dtype, task, ours, peers)
        if slowness is not None:
            at_least = bar if dtype == "float32" else None
            yield Figure(dtype, f"{task}: {name}, tokens/s", 1 / slowness, at_least=at_least)


def _between_types(report: Report) -> Iterator[Figure]:
    """Narrow types may round differently, but must not draft worse."""
    if {"float32", "bfloat16"} - set(report.dtypes()):
        return
    for task in (task for task in report.tasks() if task in DECODED):
        narrow, wide = (
            report.median(dtype, task, COLD, tokens_per_step) for dtype in ("bfloat16", "float32")
        )
        if narrow and wide:
            name = f"{task}: tokens per step, bfloat16 / float32"
            yield Figure("both types", name, narrow / wide, at_least=0.95)


def over_best(
    report: Report, dtype: str, task: str, ours: Row, peers: Sequence[Row]
) -> float | None:
    """The median over the rounds of ours over that peer's whose median is the least."""
    medians = {peer: report.median(dtype, task, peer, token_ms) for peer in peers}
    known = {peer: median for peer, median in medians.items() if median is not None}
    if not known:
        return None
    best = report.by_round(dtype, task, min(known, key=lambda peer: known[peer]))
    own = report.by_round(dtype, task, ours)
    found = [token_ms(own[number]) / token_ms(best[number]) for number in own.keys() & best.keys()]
    return statistics.median(found) if found else None
