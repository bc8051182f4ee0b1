"""An engine that drafts whether it pays or not, and what one request says on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from bench.serving.forced import AlwaysOn, NoText
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.loading import load_model
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Request
from verifier.sampling.ranking import TokenLogprobs
from verifier.speculation.budget import StepCurve
from verifier.speculation.draft_client import DraftClient

NUM_SLOTS = 8


class FreeNodes(StepCurve):
    """All nodes are worth verifying, now and later: a step's time must not change the next one."""

    def __init__(self) -> None:
        super().__init__([1, 64], [1.0, 1.0])

    def track(self, rows: int, seconds: float) -> None:
        """Follow nothing."""


FREE_NODES = FreeNodes()


@asynccontextmanager
async def running_engine(
    config: VerifierConfig, drafter: str, counters: Counters
) -> AsyncIterator[Engine]:
    """An engine with the model of these settings, connected to the drafter."""
    async with running(load_model(config), config, drafter, counters) as engine:
        yield engine


@asynccontextmanager
async def running(
    model: TargetModel, config: VerifierConfig, drafter: str, counters: Counters
) -> AsyncIterator[Engine]:
    """An engine with a loaded model, connected to the drafter. Its cache is empty."""
    drafts = DraftClient(
        [drafter], vocabulary=model.fingerprint, vocabulary_size=model.vocabulary_size
    )
    tokenizer: Any = NoText()
    engine = Engine(model, tokenizer, drafts, Measurements(FREE_NODES), config, counters)
    engine.drafting.controller = AlwaysOn(FREE_NODES.plain_units())
    engine.start()
    try:
        while model.form is not VerificationMode.PLAIN and not engine.drafting.is_connected:
            await asyncio.sleep(0.01)
        yield engine
    finally:
        await engine.stop()


@dataclass(frozen=True, slots=True)
class Said:
    """The output of one request."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    num_accepted: int = 0
    num_reused: int = 0

    def after(self, count: int) -> "Said":
        """What follows the first so many tokens."""
        return Said(self.token_ids[count:], self.logprobs[count:])

    def num_different(self, other: "Said") -> int:
        """Tokens that are not the same here and there, to the last bit of a log probability."""
        ours, theirs = (zip(s.token_ids, s.logprobs, strict=True) for s in (self, other))
        return sum(one != another for one, another in zip_longest(ours, theirs))


async def collect(engine: Engine, request: Request) -> Said:
    """Everything that one request says."""
    ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    async for event in engine.submit(request).stream():
        if isinstance(event, Completion):
            return Said(ids, logprobs, event.num_accepted_tokens, event.num_reused_tokens)
        if isinstance(event, TokenRun):
            ids += event.token_ids
            logprobs += event.logprobs
    raise RuntimeError("the stream ended without a completion")
