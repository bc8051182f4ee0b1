"""Speeds from end to end, on recorded answers: plain and drafted, by workload and streams."""

import asyncio
import statistics
from collections.abc import Iterator, Sequence

from bench.gpu.answers import (
    BARS,
    EMBEDDED,
    PLAIN,
    REMOTE,
    answering,
    rate,
    whole,
    workloads,
)
from bench.gpu.lab import Lab
from bench.gpu.report import Result
from bench.replay.player import play_online
from bench.replay.sources import factory
from bench.replay.traces import Request as Recorded
from bench.serving.figures import Figure, percentile
from verifier.engine.counters import StepStats

SECTION = "replay"
# Of a plain step of one stream, over the time that reading the weights takes.
MAX_PLAIN_STEP = 1.25


def replay(lab: Lab) -> Iterator[Result]:
    """What is served on a GPU before the drafter elsewhere, and few streams before many."""
    found = workloads(lab)
    for way in (EMBEDDED, REMOTE):
        for streams in lab.sizes.streams:
            for name in found:
                if way == EMBEDDED:
                    yield from _plain(lab, name, streams)
                if (streams, way) == (1, EMBEDDED):
                    yield _replayed(lab, name, found[name])
                yield from _drafted(lab, name, streams, way)


def _plain(lab: Lab, name: str, streams: int) -> Iterator[Result]:
    plain = steps(lab, name, streams, PLAIN)
    yield Figure(SECTION, f"{_title(name, streams)}: plain", rate(plain), "tokens/s")
    if streams == 1:
        reading_s = lab.served().read_bytes / lab.bandwidth
        ratio = statistics.median(step.step_s for step in plain) / reading_s
        what = f"{_title(name, streams)}: plain step / time to read the weights"
        yield Figure(SECTION, what, ratio, at_most=MAX_PLAIN_STEP)


def _drafted(lab: Lab, name: str, streams: int, way: str) -> Iterator[Result]:
    drafted = steps(lab, name, streams, way)
    title = f"{_title(name, streams)}, {way} drafts"
    gain = rate(drafted) / rate(steps(lab, name, streams, PLAIN))
    bar = BARS.get(name) if way == EMBEDDED else None
    yield Figure(SECTION, title, rate(drafted), "tokens/s")
    yield Figure(SECTION, f"{title} / plain", gain, at_least=bar)
    yield from _drafting(title, drafted)


def _title(name: str, streams: int) -> str:
    return f"{name}, {streams} stream{'s' if streams > 1 else ''}"


def _drafting(title: str, steps: Sequence[StepStats]) -> Iterator[Result]:
    num_decoding = sum(step.num_decoding for step in steps)
    per_step = sum(step.num_emitted for step in steps) / num_decoding
    nodes = sum(step.num_draft_nodes for step in steps) / num_decoding
    waits = [1e3 * step.draft_wait_s for step in steps]
    yield Figure(SECTION, f"{title}: tokens per step", per_step, "")
    yield Figure(SECTION, f"{title}: nodes verified per step", nodes, "")
    yield Figure(SECTION, f"{title}: waiting for them, p50", percentile(waits, 0.5), "ms")
    yield Figure(SECTION, f"{title}: waiting for them, p99", percentile(waits, 0.99), "ms")


def _replayed(lab: Lab, name: str, requests: list[Recorded]) -> Result:
    """The same answers without a model: far from it, something else than drafts was measured."""
    recording = play_online(requests[: lab.sizes.requests], factory("ours"), lab.config.max_nodes)
    per_step = recording.num_tokens / len(recording.drafted)
    return Figure(
        SECTION, f"{_title(name, 1)}: tokens per step, no model and no budget", per_step, ""
    )


def steps(lab: Lab, name: str, streams: int, way: str) -> list[StepStats]:
    """The steps in which nearly all streams decoded; of an earlier section, where it has run."""
    key = (name, streams, way)
    if key not in lab.steps:
        requests = workloads(lab)[name][: max(streams, lab.sizes.requests)]
        lab.steps[key] = asyncio.run(_run(lab, requests, streams, way))
    return lab.steps[key]


async def _run(lab: Lab, requests: list[Recorded], streams: int, way: str) -> list[StepStats]:
    async with answering(lab, lab.served(), way) as running:
        return whole(await running.force(requests, streams), streams)
