"""What a step takes outside its pass, by streams; and what sampling adds to it."""

import asyncio
import statistics
from collections.abc import Iterator

from bench.exactness.runs import collect
from bench.gpu.answers import EMBEDDED, PLAIN, answering, request, whole, workloads
from bench.gpu.lab import Lab
from bench.gpu.passes import words
from bench.gpu.replay import steps
from bench.gpu.report import Result
from bench.serving.figures import Figure
from verifier.sampling.params import SamplingParams

SECTION = "overhead"
SAMPLINGS = {
    "greedy": SamplingParams(),
    "temperature 0.8": SamplingParams(temperature=0.8),
    "temperature 0.8, top_p 0.95": SamplingParams(temperature=0.8, top_p=0.95),
}
PROMPT_LEN = 64


def overhead(lab: Lab) -> Iterator[Result]:
    """The steps that the replay made, where it has run."""
    name = next(iter(workloads(lab)))
    for streams in lab.sizes.streams:
        for way in (PLAIN, EMBEDDED):
            outside = [1e3 * (s.step_s - s.forward_s) for s in steps(lab, name, streams, way)]
            what = f"{streams} streams, {way}: step outside pass and ranking, median"
            yield Figure(SECTION, what, statistics.median(outside), "ms")
    for streams in lab.sizes.streams[:2]:
        for kind, sampling in SAMPLINGS.items():
            step_s = asyncio.run(_sampled(lab, streams, sampling))
            yield Figure(SECTION, f"{streams} streams, {kind}: plain step", 1e3 * step_s, "ms")


async def _sampled(lab: Lab, streams: int, sampling: SamplingParams) -> float:
    """Median seconds of a step whose tokens the model chooses itself."""
    served = lab.served()
    async with answering(lab, served, PLAIN) as running:
        prompts = [words(served.model, PROMPT_LEN, seed) for seed in range(streams)]
        requests = [
            request(lab.config, prompt, lab.sizes.tokens, sampling=sampling) for prompt in prompts
        ]
        await asyncio.gather(*(collect(running.engine, each) for each in requests))
    made = [step for step in running.recorder.steps if not step.num_prompt_rows]
    return statistics.median(step.step_s for step in whole(made, streams))
