"""Run requests through a real engine on a small model, without services around it."""

import asyncio
from collections.abc import Sequence as Seq
from typing import Any

from transformers import PreTrainedModel

from bench.exactness.runs import FreeNodes
from bench.serving.engine import StepRecorder
from bench.serving.forced import AlwaysOn
from rpc.contract import Learn
from tests.support.models.fake_drafts import FakeDrafts
from verifier.config import VerifierConfig
from verifier.engine.counters import StepStats
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams

# Rows cost nothing, so AUTO verifies all it is given.
FREE_NODES = Measurements(FreeNodes())


class LetterDetokenizer:
    """One character per id."""

    def push(self, token_id: int) -> str:
        return chr(0x100 + token_id)

    def pending(self) -> str:
        return ""

    def flush(self) -> str:
        return ""


class LetterTokenizer:
    """The engine needs no more of a tokenizer."""

    def detokenizer(self, *, special_tokens: bool) -> LetterDetokenizer:
        return LetterDetokenizer()


def target_model(hf: PreTrainedModel, *, max_sequences: int, max_context: int) -> TargetModel:
    """The model with slots, in its strongest form."""
    model = TargetModel(hf, "small", max_context=max_context)
    choose_form(model, hf, num_slots=max_sequences, draft_rows=65)
    return model


def small_config(**settings: Any) -> VerifierConfig:
    """The settings of a verifier with a small model."""
    return VerifierConfig(model="small", **settings)


def make_engine(model: TargetModel, drafts: FakeDrafts | None, **settings: Any) -> Engine:
    """An engine over fake drafts."""
    config = small_config(**settings)
    tokenizer: Any = LetterTokenizer()
    engine = Engine(model, tokenizer, drafts, FREE_NODES, config, StepRecorder())
    engine.drafting.controller = AlwaysOn(FREE_NODES.curve.plain_units())
    return engine


def steps_of(engine: Engine) -> list[StepStats]:
    """The steps of an engine of the tests, up to now; the list goes on growing."""
    assert isinstance(engine.counters, StepRecorder)
    return engine.counters.steps


def make_request(
    prompt: Seq[int],
    num_tokens: int,
    *,
    mode: Mode = Mode.TREE,
    namespace: str = "default",
    learn: Learn = Learn.ALL,
    sampling: SamplingParams | None = None,
    **stopping: Any,
) -> Request:
    """A request for at most `num_tokens` tokens."""
    return Request(
        request_id="test",
        prompt_token_ids=tuple(prompt),
        sampling=sampling or SamplingParams(),
        stopping=StoppingParams(max_tokens=num_tokens, **stopping),
        speculation=Speculation(
            mode=mode, max_nodes=64, max_depth=64, namespace=namespace, learn=learn
        ),
    )


async def collect(engine: Engine, request: Request) -> tuple[list[TokenRun], Completion]:
    """All events of one request."""
    runs: list[TokenRun] = []
    async for event in engine.submit(request).stream():
        if isinstance(event, Completion):
            return runs, event
        if isinstance(event, TokenRun):
            runs.append(event)
    raise AssertionError("the stream ended without a completion")


def run_all(engine: Engine, requests: Seq[Request]) -> list[tuple[list[TokenRun], Completion]]:
    """Run the requests together; leave the engine with every slot free."""

    async def main() -> list[tuple[list[TokenRun], Completion]]:
        engine.start()
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(collect(engine, r) for r in requests))
        await engine.stop()
        return list(results)

    results = asyncio.run(main())
    assert engine.model.slots.num_free == engine.model.slots.num_slots, "a slot leaked"
    return results


def ids_of(runs: Seq[TokenRun]) -> list[int]:
    """The emitted ids; first indices must be seamless."""
    ids: list[int] = []
    for run in runs:
        assert run.first_index == len(ids)
        ids += run.token_ids
    return ids
