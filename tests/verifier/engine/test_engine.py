"""The engine keeps its promises to clients that leave, come too many, or meet a broken device."""

import asyncio
import time

import pytest
import torch

from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    steps_of,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts
from tests.support.models.reference import FAMILIES, generate
from tests.support.waiting import eventually
from verifier.engine.engine import Engine, EngineError
from verifier.engine.events import Completion, TokenRun
from verifier.engine.scheduler import QueueFull
from verifier.model.batch import Segment
from verifier.model.model import TargetModel
from verifier.request import Mode
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import EMPTY_TREE, DraftTree
from verifier.text.stopping import FinishReason

PROMPT = [5, 9, 33, 4, 17]


@pytest.fixture
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=2, max_context=250)


def no_drafts() -> FakeDrafts:
    return FakeDrafts(lambda sequence_id, tokens, max_nodes: EMPTY_TREE)


@pytest.mark.parametrize("num_events", range(5))
async def test_a_cancelled_request_frees_its_slot_within_a_step(
    model: TargetModel, num_events: int
) -> None:
    drafts = no_drafts()
    engine = make_engine(model, drafts)
    engine.start()
    sequence = engine.submit(make_request(PROMPT, 200))
    stream = sequence.stream()
    for _ in range(num_events):
        await anext(stream)
    other = asyncio.create_task(collect(engine, make_request(PROMPT, 8)))
    engine.cancel(sequence)
    runs, _ = await other
    assert sequence.num_output <= num_events + 2, "it ran on after it was cancelled"
    await eventually(lambda: engine.num_running == 0)
    await engine.stop()
    assert model.slots.num_free == 2
    assert ids_of(runs) == generate(FAMILIES[0].build(), PROMPT, 8, [])
    assert (sequence.id, True) not in drafts.closed, "a cancelled sequence was learned"


async def test_a_waiting_request_can_be_cancelled(model: TargetModel) -> None:
    engine = make_engine(model, None, max_sequences=2)
    running = [engine.submit(make_request(PROMPT, 4)) for _ in range(3)]
    engine.cancel(running[2])
    assert engine.num_waiting == 2
    await engine.stop()


async def test_a_full_queue_refuses(model: TargetModel) -> None:
    engine = make_engine(model, None, max_waiting=1)
    for _ in range(3):
        engine.submit(make_request(PROMPT, 4))
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        engine.submit(make_request(PROMPT, 4))
    await engine.stop()


async def test_a_failing_step_ends_its_sequences_and_nothing_else(
    model: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(model, None)
    forward = model.forward

    def broken(segments: object) -> object:
        raise RuntimeError("out of memory")

    engine.start()
    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(EngineError, match="out of memory"):
        await collect(engine, make_request(PROMPT, 4))
    monkeypatch.setattr(model, "forward", forward)
    runs, _ = await collect(engine, make_request(PROMPT, 4))
    await engine.stop()
    assert ids_of(runs) == generate(FAMILIES[0].build(), PROMPT, 4, [])


async def test_stopping_the_engine_completes_streams_with_what_they_have(
    model: TargetModel,
) -> None:
    engine = make_engine(model, None, max_sequences=2)
    engine.start()
    sequences = [engine.submit(make_request(PROMPT, 240)) for _ in range(3)]
    first = await anext(sequences[0].stream())
    await engine.stop()
    answer = generate(FAMILIES[0].build(), PROMPT, 240, [])
    outputs: list[list[int]] = []
    for sequence, seen in zip(sequences, ([first], [], []), strict=True):
        *runs, completion = [*seen, *[event async for event in sequence.stream()]]
        assert isinstance(completion, Completion)
        assert completion.finish.reason is FinishReason.SHUTDOWN
        outputs.append(ids_of([run for run in runs if isinstance(run, TokenRun)]))
    assert [answer[: len(ids)] for ids in outputs] == outputs
    assert [len(ids) for ids in outputs] == [sequence.num_output for sequence in sequences]
    assert outputs[0] and not outputs[2], "the first had begun, the third still waited"


def test_an_off_request_never_verifies_a_draft(model: TargetModel) -> None:
    tree = DraftTree((1, 2), (-1, 0), (1.0, 1.0))
    drafts = FakeDrafts(lambda sequence_id, tokens, max_nodes: tree)
    [(_, completion)] = run_all(
        make_engine(model, drafts), [make_request(PROMPT, 9, mode=Mode.OFF)]
    )
    assert completion.num_drafts == completion.num_draft_tokens == 0
    assert completion.num_steps == 8


def test_banning_every_token_fails_that_request_alone(model: TargetModel) -> None:
    banned = SamplingParams(logit_bias=tuple((i, -100.0) for i in range(64)))

    async def main(engine: Engine) -> list[object]:
        engine.start()
        results = await asyncio.gather(
            collect(engine, make_request(PROMPT, 5, sampling=banned)),
            collect(engine, make_request(PROMPT, 5)),
            return_exceptions=True,
        )
        await engine.stop()
        return list(results)

    failed, fine = asyncio.run(main(make_engine(model, None)))
    assert "no token can be chosen" in str(failed)
    assert isinstance(fine, tuple)


def test_a_prompt_in_chunks_beside_running_streams_gives_the_same_text(model: TargetModel) -> None:
    hf = FAMILIES[0].build()
    prompts = [[3, 4], [(7 * i) % 61 + 3 for i in range(150)]]
    results = run_all(
        make_engine(model, None, prefill_rows=7), [make_request(p, 40) for p in prompts]
    )
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, p, 40, []) for p in prompts]


@pytest.mark.parametrize("length", [3, 8])
async def test_a_short_prompt_is_read_in_the_next_pass_and_a_long_one_goes_on_beside_it(
    model: TargetModel, length: int
) -> None:
    engine = make_engine(model, None, prefill_rows=8)
    steps = steps_of(engine)
    long = engine.submit(make_request([(7 * i) % 61 + 3 for i in range(200)], 4))
    engine.start()
    await eventually(lambda: bool(steps))
    num_steps = len(steps)
    await collect(engine, make_request([5, 9, 33, 4, 8, 7, 6, 3][:length], 1))
    assert len(steps) <= num_steps + 2, "the short prompt waited for the long one"
    assert max(step.num_prompt_rows for step in steps) > length, "the long prompt waited"
    assert not long.num_output
    async for _ in long.stream():
        pass
    await engine.stop()
    assert all(step.num_prompt_rows <= 8 + 2 for step in steps)


async def test_short_prompts_without_end_do_not_starve_a_long_one(model: TargetModel) -> None:
    engine = make_engine(model, None, prefill_rows=8)
    long = engine.submit(make_request([(7 * i) % 61 + 3 for i in range(60)], 1))
    engine.start()
    num_short = 0
    while not long.num_output:
        await collect(engine, make_request([num_short % 50 + 3, 5, 9, 4, 7, 8, 2, 6], 1))
        num_short += 1
        assert num_short < 60
    await engine.stop()


async def test_the_times_of_all_steps_add_up_to_what_has_passed(model: TargetModel) -> None:
    engine = make_engine(model, None)
    steps = steps_of(engine)
    engine.start()  # the first request is there before the loop runs for the first time
    busy_s = 0.0
    for _ in range(2):
        started = time.perf_counter()
        await collect(engine, make_request(PROMPT, 60))
        busy_s += time.perf_counter() - started
        await asyncio.sleep(0.2)  # idle time belongs to no step
    await engine.stop()
    assert len(steps) == 2 * 60
    assert all(0 < step.forward_s < step.step_s for step in steps)
    assert 0.8 * busy_s < sum(step.step_s for step in steps) <= busy_s


async def test_a_pass_that_takes_too_much_memory_ends_the_largest_sequence_alone(
    model: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(model, None, prefill_rows=64)
    forward = model.forward

    def limited(segments: list[Segment]) -> object:
        if sum(segment.num_rows for segment in segments) > 32:
            raise RuntimeError("not enough memory: you tried to allocate 9 TB")
        return forward(segments)

    monkeypatch.setattr(model, "forward", limited)
    engine.start()
    small = asyncio.create_task(collect(engine, make_request(PROMPT, 20)))
    await eventually(lambda: engine.num_running == 1)
    with pytest.raises(EngineError, match="not enough memory"):
        await collect(engine, make_request([3] * 60, 4))
    runs, _ = await small
    await engine.stop()
    assert ids_of(runs) == generate(FAMILIES[0].build(), PROMPT, 20, [])
    assert model.slots.num_free == 2


async def test_a_device_that_is_lost_ends_the_engine_and_says_so(
    model: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(model, None)
    reasons: list[str] = []
    engine.on_death = reasons.append

    def broken(segments: object) -> object:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(model, "forward", broken)
    engine.start()
    with pytest.raises(EngineError, match="illegal memory access"):
        await collect(engine, make_request(PROMPT, 4))
    assert reasons and "illegal memory access" in reasons[0]
    await engine.stop()
