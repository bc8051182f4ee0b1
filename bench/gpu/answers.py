"""Recorded answers, and their forcing through the real engine: acceptance as on real text.

Random weights say nothing that anyone could predict. So the model computes every pass in full, and
what it would have chosen is replaced by what was recorded.
"""

import asyncio
import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.exactness.runs import FREE_NODES
from bench.gpu.lab import Lab, Served
from bench.replay.traces import Request as Recorded
from bench.replay.traces import compact, load
from bench.replay.traces import workloads as recorded_workloads
from bench.serving.engine import StepRecorder
from bench.serving.forced import AlwaysOn, Forced, NoText
from bench.serving.host import recorded
from bench.serving.workloads import noise
from drafter.kernels.dispatch import dispatch
from embedded.drafts import EmbeddedDrafts
from verifier.config import VerifierConfig
from verifier.engine.counters import StepStats
from verifier.engine.engine import Engine
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.draft_source import DraftSource, Successors
from verifier.text.stopping import StoppingParams

# What drafted decoding has to reach, in tokens per second over plain decoding.
BARS = {"code-edit": 2.5, "json-extract": 2.5, "random": 0.98}
MADE = ("copies", "noise")  # where nothing was recorded
PLAIN, EMBEDDED, REMOTE = WAYS = ("plain", "embedded", "remote")


def workloads(lab: Lab) -> dict[str, list[Recorded]]:
    """Requests by workload, in ids that every model has, cut to what the sizes allow."""
    count = max(*lab.sizes.streams, lab.sizes.requests)
    if lab.traces is None:
        return {name: _made(lab, name, count) for name in MADE}
    names = [name for name in BARS if name in recorded_workloads(lab.traces)]
    cut = {name: [_cut(lab, r) for r in load(lab.traces, name, count)] for name in names}
    return {name: compact(requests)[0] for name, requests in cut.items()}


def _made(lab: Lab, name: str, count: int) -> list[Recorded]:
    rng = random.Random(0)
    requests = []
    for index in range(count):
        prompt, output = recorded(rng, lab.sizes.tokens)
        if name != "copies":
            output = noise(lab.sizes.tokens, max(prompt), index)
        requests.append(Recorded(f"{name}-{index}", prompt, output))
    return requests


def _cut(lab: Lab, request: Recorded) -> Recorded:
    """The end of the prompt and the beginning of the answer."""
    tokens = lab.sizes.tokens
    room = lab.sizes.max_context - tokens - 1
    return replace(request, prompt=request.prompt[-room:], output=request.output[:tokens])


class UntaughtEmbedded(EmbeddedDrafts):
    """Learns nothing of the model's other likely tokens, which random weights make up."""

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Without them."""
        super().observe(sequence_id, num_verified=num_verified, successors=None)


class UntaughtClient(DraftClient):
    """Tells a drafter nothing of the model's other likely tokens."""

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Without them."""
        super().observe(sequence_id, num_verified=num_verified, successors=None)


def drafts(lab: Lab, way: str, model: TargetModel) -> DraftSource | None:
    """Where drafts come from; the memory is empty."""
    vocabulary: dict[str, Any] = {
        "vocabulary": f"gpu-{random.getrandbits(64):x}",
        "vocabulary_size": model.vocabulary_size,
    }
    if way == EMBEDDED:
        dispatch.compile()  # once per process, and not beside the first steps
        return UntaughtEmbedded(**vocabulary)
    return UntaughtClient([lab.drafter], **vocabulary) if way == REMOTE else None


class Answering:
    """A served model's engine, and all steps that it makes."""

    def __init__(
        self,
        lab: Lab,
        model: TargetModel,
        measured: Measurements,
        source: DraftSource | None,
        recorder: StepRecorder | None = None,
    ) -> None:
        self.recorder = recorder or StepRecorder()
        self._lab, self._source = lab, source
        tokenizer: Any = NoText()
        # The engine goes on changing what was measured.
        own = copy.deepcopy(measured)
        self.engine = Engine(model, tokenizer, source, own, lab.config, self.recorder)

    async def __aenter__(self) -> "Answering":
        self.engine.start()
        while self._source is not None and not self._source.is_connected:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()

    async def force(self, requests: Sequence[Recorded], streams: int) -> list[StepStats]:
        """Answer all, so many at once; the steps without rows of prompts.

        Prompts are read beforehand, so that all sequences decode at once from their cached rows.
        """
        await self._each(requests, streams, num_tokens=1)
        self.recorder.steps.clear()
        await self._each(requests, streams, num_tokens=self._lab.sizes.tokens)
        return [step for step in self.recorder.steps if not step.num_prompt_rows]

    async def _each(self, requests: Sequence[Recorded], streams: int, num_tokens: int) -> None:
        turns = asyncio.Semaphore(streams)

        async def one(recorded: Recorded, forced: Forced) -> None:
            output = recorded.output[:num_tokens]
            wanted = request(self._lab.config, recorded.prompt, len(output))
            async with turns:
                await forced.answer(wanted, output)

        with Forced(self.engine) as forced:
            await asyncio.gather(*(one(each, forced) for each in requests))


def answering(
    lab: Lab, served: Served, way: str, recorder: StepRecorder | None = None
) -> Answering:
    """As the verifier decodes, with drafts as far as they pay."""
    source = drafts(lab, way, served.model)
    return Answering(lab, served.model, served.measured, source, recorder)


def always_drafting(lab: Lab, model: TargetModel) -> Answering:
    """With all drafts verified, whether they pay or not: for words, not for times."""
    measured = Measurements(FREE_NODES)
    found = Answering(lab, model, measured, drafts(lab, EMBEDDED, model))
    found.engine.drafting.controller = AlwaysOn(FREE_NODES.plain_units())
    return found


def request(
    config: VerifierConfig,
    prompt: Sequence[int],
    num_tokens: int,
    *,
    mode: Mode = Mode.AUTO,
    sampling: SamplingParams | None = None,
    prediction: Sequence[int] = (),
) -> Request:
    """As the verifier would make it by its settings; nothing ends it before so many tokens."""
    return Request(
        request_id="gpu",
        prompt_token_ids=tuple(prompt),
        sampling=sampling or SamplingParams(),
        stopping=StoppingParams(max_tokens=num_tokens),
        speculation=Speculation(
            mode=mode,
            max_nodes=config.max_nodes,
            max_depth=config.max_depth,
            prediction=tuple(prediction),
        ),
    )


def whole(steps: Sequence[StepStats], streams: int) -> list[StepStats]:
    """The steps in which nearly all streams decoded."""
    return [step for step in steps if step.num_decoding > 0.75 * streams]


def rate(steps: Sequence[StepStats]) -> float:
    """Tokens per second."""
    return sum(step.num_emitted for step in steps) / sum(step.step_s for step in steps)
