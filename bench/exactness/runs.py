"""Requests of all kinds, run together on one engine, and what they said."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rpc.contract import Learn
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.engine.events import Completion
from verifier.loading import load_model
from verifier.model.measurements import Measurements
from verifier.model.model import VerificationMode
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.sampling.ranking import TokenLogprobs
from verifier.speculation.budget import StepCurve
from verifier.speculation.controller import Controller
from verifier.speculation.draft_client import DraftClient
from verifier.text.stopping import StoppingParams

RUNNING = 12  # requests at once, on eight slots
NUM_SLOTS = 8
LENGTHS = (5, 24, 60, 100)  # of prompts
SAME_LENGTH = 8  # prompts of one length in a row
MODES = (Mode.TREE, Mode.TREE, Mode.CHAIN, Mode.AUTO, Mode.OFF)
GREEDY = SamplingParams()


class FreeNodes(StepCurve):
    """All nodes are worth verifying, now and later: a step's time must not change the next one."""

    def __init__(self) -> None:
        super().__init__([1, 64], [1.0, 1.0])

    def track(self, rows: int, seconds: float) -> None:
        """Follow nothing."""


FREE_NODES = FreeNodes()


class AlwaysOn(Controller):
    """Drafts whether they pay or not: words are compared here, not times."""

    allows_drafts = True

    def record(self, **step: Any) -> None:
        """Draw no conclusion."""

    def record_saved(self, num_steps: float) -> None:
        """Nor from steps beside prompts."""


class NoText:
    """Ids are compared, not text."""

    def detokenizer(self, *, special_tokens: bool) -> "NoText":
        """Make one for a sequence."""
        return self

    def push(self, token_id: int) -> str:
        """Nothing."""
        return ""

    pending = flush = lambda self: ""


@dataclass(frozen=True, slots=True)
class Said:
    """The output of one request."""

    token_ids: list[int]
    logprobs: list[float] = field(default_factory=list)
    top: tuple[tuple[int, float], ...] = ()  # what the last token was chosen from
    num_accepted: int = 0
    num_reused: int = 0


@asynccontextmanager
async def running_engine(
    config: VerifierConfig, drafter: str, counters: Counters
) -> AsyncIterator[Engine]:
    """An engine that is connected to the drafter."""
    model = load_model(config)
    drafts = DraftClient(
        [drafter], vocabulary=model.fingerprint, vocabulary_size=model.vocabulary_size
    )
    engine = Engine(
        model,
        NoText(),  # type: ignore[arg-type]
        drafts,
        Measurements(FREE_NODES),
        config,
        counters,
    )
    engine.drafting.controller = AlwaysOn(FREE_NODES.plain_units())
    engine.start()
    try:
        while model.form is not VerificationMode.PLAIN and not engine.drafting.is_connected:
            await asyncio.sleep(0.01)
        yield engine
    finally:
        await engine.stop()


def make_prompts(rng: random.Random, count: int, vocabulary: int) -> list[list[int]]:
    """Prompts of few lengths; every third begins like the one before it."""
    prompts: list[list[int]] = []
    for place in range(count):
        length = LENGTHS[place // SAME_LENGTH % len(LENGTHS)]
        prompt = [rng.randrange(3, vocabulary) for _ in range(length)]
        if place % 3 == 2:
            shared = rng.randrange(1, min(length, len(prompts[-1])) + 1)
            prompt[:shared] = prompts[-1][:shared]
        prompts.append(prompt)
    return prompts


def drafted(plain: Sequence[Request], answers: Sequence[Said], rng: random.Random) -> list[Request]:
    """The requests in all modes; the drafter is told some answers, right or spoiled."""
    return [
        replace(
            request,
            speculation=replace(
                request.speculation,
                mode=rng.choice(MODES),
                prediction=_told(answer, rng),
            ),
        )
        for request, answer in zip(plain, answers, strict=True)
    ]


def _told(answer: Said, rng: random.Random) -> tuple[int, ...]:
    told = list(answer.token_ids)
    match rng.randrange(3):
        case 0:
            return ()
        case 1:
            for _ in range(len(told) // 8):
                told[rng.randrange(len(told))] = rng.choice(told)
    return tuple(told)


def make_request(
    prompt: Sequence[int],
    num_tokens: int,
    sampling: SamplingParams,
    num_top_logprobs: int = 0,
) -> Request:
    """A request for so many tokens without drafts, with their log probabilities."""
    return Request(
        request_id="words",
        prompt_token_ids=tuple(prompt),
        sampling=sampling,
        stopping=StoppingParams(max_tokens=num_tokens),
        speculation=Speculation(mode=Mode.OFF, max_nodes=63, learn=Learn.OUTPUT),
        logprobs=True,
        num_top_logprobs=num_top_logprobs,
    )


async def run_all(engine: Engine, requests: Sequence[Request], rng: random.Random) -> list[Said]:
    """Run the requests, some at once, in shuffled order; a quarter have a twin that hangs up."""
    turns = asyncio.Semaphore(RUNNING)
    order = rng.sample(range(len(requests)), len(requests))
    said: dict[int, Said] = {}

    async def run(place: int) -> None:
        async with turns:
            if place % 4 == 0:
                await _hang_up(engine, requests[place])
            said[place] = await collect(engine, requests[place])

    await asyncio.gather(*(run(place) for place in order))
    return [said[place] for place in range(len(requests))]


async def collect(engine: Engine, request: Request) -> Said:
    """Everything that one request says."""
    ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    async for event in engine.submit(request).stream():
        if isinstance(event, Completion):
            return Said(
                ids,
                [each.logprob for each in logprobs],
                logprobs[-1].top,
                event.num_accepted_tokens,
                event.num_reused_tokens,
            )
        ids += event.token_ids
        logprobs += event.logprobs
    raise RuntimeError("the stream ended without a completion")


async def _hang_up(engine: Engine, request: Request) -> None:
    """Cancel after the first tokens."""
    sequence = engine.submit(request)
    async with aclosing(sequence.stream()) as events:
        await anext(events)
    engine.cancel(sequence)
