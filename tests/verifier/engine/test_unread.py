"""Clients that do not read: their streams wait, others do not, and no word changes."""

import asyncio

import pytest

from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    steps_of,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import FAMILIES, generate
from tests.support.waiting import eventually
from verifier.engine.engine import Engine
from verifier.engine.events import TokenRun
from verifier.engine.sequence import Sequence
from verifier.model.model import TargetModel
from verifier.request import Mode

PROMPTS = [[(7 * i + k) % 61 + 3 for i in range(20)] for k in range(4)]
MAX_UNREAD = 8


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=2, max_context=120)


async def rest(sequence: Sequence) -> list[int]:
    return ids_of([event async for event in sequence.stream() if isinstance(event, TokenRun)])


def is_quiet(engine: Engine) -> bool:
    """Whether no step has been run since the last question."""
    steps = steps_of(engine)
    was_quiet = not steps
    steps.clear()
    return was_quiet


async def unread(engine: Engine, prompts: list[list[int]], mode: Mode) -> list[Sequence]:
    """Start answers that nobody reads, and wait until they wait."""
    sequences = [engine.submit(make_request(prompt, 60, mode=mode)) for prompt in prompts]
    await eventually(lambda: all(s.num_unread > MAX_UNREAD for s in sequences))
    return sequences


async def test_a_stream_that_nobody_reads_waits(model: TargetModel) -> None:
    engine = make_engine(model, None, max_unread_tokens=MAX_UNREAD)
    engine.start()
    [sequence] = await unread(engine, PROMPTS[:1], Mode.TREE)
    assert sequence.num_unread == MAX_UNREAD + 1
    await eventually(lambda: is_quiet(engine))
    assert sequence.num_output == MAX_UNREAD + 1
    assert await rest(sequence) == generate(FAMILIES[0].build(), PROMPTS[0], 60, [])
    await engine.stop()


@pytest.mark.parametrize("mode", [Mode.TREE, Mode.OFF])
async def test_their_slots_serve_others_and_their_words_stay(
    model: TargetModel, mode: Mode
) -> None:
    """Also those of a request that leaves no rows, which are then computed again."""
    hf = FAMILIES[0].build()
    answers = [generate(hf, prompt, 60, []) for prompt in PROMPTS]
    drafts = FakeDrafts(lambda i, tokens, n: path_tree(answers[0][len(tokens) - 20 :][:3]))
    engine = make_engine(model, drafts, max_unread_tokens=MAX_UNREAD)
    engine.start()
    idle = await unread(engine, PROMPTS[:2], mode)
    others = await asyncio.gather(
        *(collect(engine, make_request(prompt, 60)) for prompt in PROMPTS[2:])
    )
    assert [ids_of(runs) for runs, _ in others] == answers[2:]
    assert not any(sequence.clock.ended for sequence in idle)
    assert await asyncio.gather(*map(rest, idle)) == answers[:2]
    await engine.stop()
    assert model.slots.num_free == 2


async def test_one_that_waits_without_a_slot_can_leave(model: TargetModel) -> None:
    engine = make_engine(model, None, max_unread_tokens=MAX_UNREAD)
    engine.start()
    idle = await unread(engine, PROMPTS[:2], Mode.TREE)
    await collect(engine, make_request(PROMPTS[2], 5))
    assert engine.num_waiting == 1
    for sequence in idle:
        engine.cancel(sequence)
        engine.cancel(sequence)
    await eventually(lambda: engine.num_running + engine.num_waiting == 0)
    await collect(engine, make_request(PROMPTS[3], 5))
    await engine.stop()
    assert model.slots.num_free == 2
