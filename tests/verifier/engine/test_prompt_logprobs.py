"""How likely a prompt's tokens are: as the model says, to the last bit, however it is read."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.models.engine_runs import ids_of, make_engine, make_request, target_model
from tests.support.models.reference import family
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, PromptRun, TokenRun
from verifier.engine.prefill import SCORED_ROWS
from verifier.model.batch import Segment
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Request
from verifier.sampling.ranking import TokenLogprobs
from verifier.text.stopping import FinishReason

PROMPT = [(7 * i) % 61 + 3 for i in range(90)]


@pytest.fixture(scope="module")
def llama() -> TargetModel:
    return target_model(family("llama").build(), max_sequences=2, max_context=160)


def scored(prompt: list[int], num_tokens: int = 0, num_top: int = 3) -> Request:
    return replace(make_request(prompt, num_tokens), num_prompt_logprobs=num_top)


async def ask(engine: Engine, request: Request) -> tuple[list[PromptRun], list[TokenRun], Any]:
    events = [event async for event in engine.submit(request).stream()]
    read = [event for event in events if isinstance(event, PromptRun)]
    runs = [event for event in events if isinstance(event, TokenRun)]
    assert events == [*read, *runs, events[-1]]
    assert isinstance(events[-1], Completion)
    return read, runs, events[-1]


def joined(read: list[PromptRun]) -> tuple[list[int], list[TokenLogprobs]]:
    """All tokens and their log probabilities; the runs must be seamless."""
    ids: list[int] = []
    for run in read:
        assert run.first_index == len(ids)
        ids += run.token_ids
    return ids, [entry for run in read for entry in run.logprobs]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba"])
async def test_they_are_the_models_own(name: str) -> None:
    model = target_model(family(name).build(), max_sequences=1, max_context=160)
    engine = make_engine(model, None)
    engine.start()
    ids, found = joined((await ask(engine, scored(PROMPT)))[0])
    await engine.stop()
    assert (model.form is VerificationMode.PLAIN) == (name == "mamba")
    assert ids == PROMPT
    expected = torch.log_softmax(model.stock_logits(PROMPT), 1)
    for row, token_id, entry in zip(expected, PROMPT[1:], found, strict=False):
        assert entry.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert entry.rank == 1 + int((row > row[token_id]).sum())
        assert [i for i, _ in entry.top] == row.topk(3).indices.tolist()
    assert len(found) == len(PROMPT) - 1


async def test_they_have_the_bits_of_generated_ones_whatever_was_there_before(
    llama: TargetModel,
) -> None:
    engine = make_engine(llama, None)
    engine.start()
    asked = replace(make_request(PROMPT, 40), logprobs=True, num_top_logprobs=3)
    _, runs, _ = await ask(engine, asked)
    said = ids_of(runs)
    generated = [entry for run in runs for entry in run.logprobs]
    for _ in range(2):  # the second time the slot holds all of it
        read, runs, end = await ask(engine, scored(PROMPT + said, 2))
        assert len(ids_of(runs)) == 2
        assert end.num_reused_tokens == 0
        ids, found = joined(read)
        assert ids == PROMPT + said
        assert [replace(entry, rank=0) for entry in found[len(PROMPT) - 1 :]] == generated
    again = replace(make_request(PROMPT + said, 1))
    assert (await ask(engine, again))[2].num_reused_tokens > len(PROMPT)  # others use its rows
    await engine.stop()


async def test_a_prompt_that_is_only_read_ends_without_a_token(llama: TargetModel) -> None:
    engine = make_engine(llama, None)
    engine.start()
    _, runs, end = await ask(engine, scored(PROMPT[:1]))
    assert runs == []
    assert end.finish.reason is FinishReason.LENGTH
    assert (end.num_output_tokens, end.num_prompt_tokens, end.text) == (0, 1, "")
    ids, found = joined((await ask(engine, scored(PROMPT[:1])))[0])
    assert (ids, found) == (PROMPT[:1], [])
    await engine.stop()
    assert engine.model.slots.num_free == engine.model.slots.num_slots


async def test_a_pass_makes_few_rows_of_logits(
    llama: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = llama.forward

    def watched(segments: list[Segment]) -> torch.Tensor:
        logits = forward(segments)
        passes.append(len(logits))
        return logits

    monkeypatch.setattr(llama, "forward", watched)
    engine = make_engine(llama, None)
    engine.start()
    read, _, _ = await ask(engine, scored(PROMPT))
    await engine.stop()
    assert passes == [SCORED_ROWS, len(PROMPT) - SCORED_ROWS]
    assert len(read) == 2
