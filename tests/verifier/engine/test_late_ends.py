"""A stop string is found while the next pass runs; nothing of that is told, kept or learned."""

import asyncio

import pytest

from protos import drafter_pb2 as pb
from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE, generate
from tests.support.servers.fake_drafter import RunningDrafter
from tests.support.waiting import eventually
from verifier.engine.answer import Emission
from verifier.engine.engine import EngineError
from verifier.engine.events import TokenRun
from verifier.engine.sequence import Sequence
from verifier.model.model import TargetModel
from verifier.request import Mode, Request
from verifier.speculation.draft_client import LEARNED_BY, DraftClient
from verifier.text.stopping import FinishReason

PROMPT = [5, 9, 33, 4, 17]
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def answer() -> list[int]:
    return generate(FAMILIES[0].build(), PROMPT, NUM_TOKENS, [])


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=2, max_context=120)


def letters(ids: list[int]) -> str:
    return "".join(chr(0x100 + i) for i in ids)


def end_of(answer: list[int], stop: list[int]) -> int:
    """How many tokens plain decoding emits up to and with the stop string."""
    return letters(answer).index(letters(stop)) + len(stop)


def stopping_at(answer: list[int], offset: int, **options: object) -> Request:
    stop = letters(answer[offset : offset + 2])
    return make_request(PROMPT, NUM_TOKENS, stop_strings=(stop,), **options)  # type: ignore[arg-type]


class Noting(FakeDrafts):
    """Right drafts of a fixed length, and what each sequence held when it was closed."""

    def __init__(self, answer: list[int], num_drafted: int) -> None:
        super().__init__(
            lambda i, tokens, n: path_tree(answer[len(tokens) - len(PROMPT) :][:num_drafted])
        )
        self.learned: list[list[int]] = []

    def close(self, sequence_id: int, *, learn: bool) -> None:
        if sequence_id in self._tokens:
            assert learn
            self.learned.append(list(self._tokens[sequence_id]))
        super().close(sequence_id, learn=learn)


@pytest.mark.parametrize("num_drafted", [0, 1, 3])
@pytest.mark.parametrize("offset", range(0, NUM_TOKENS - 2, 3))
def test_what_is_told_counted_and_learned_ends_with_the_stop_string(
    model: TargetModel, answer: list[int], offset: int, num_drafted: int
) -> None:
    drafts = Noting(answer, num_drafted)
    engine = make_engine(model, drafts)
    [(runs, completion)] = run_all(engine, [stopping_at(answer, offset)])
    end = end_of(answer, answer[offset : offset + 2])
    text = "".join(run.text for run in runs) + completion.text
    assert ids_of(runs) == answer[:end]
    assert text == letters(answer[: end - 2])
    assert completion.finish.reason is FinishReason.STOP
    assert completion.num_output_tokens == end
    assert completion.num_steps + completion.num_accepted_tokens in (end - 1, end)
    assert engine.counters.num_generation_tokens == end
    assert drafts.learned == [[*PROMPT, *answer[:end]]]


async def test_no_more_than_one_step_is_run_in_vain(model: TargetModel, answer: list[int]) -> None:
    engine = make_engine(model, None)
    sequence = engine.submit(stopping_at(answer, 6, mode=Mode.OFF))
    lengths: list[int] = []
    let_go = engine._let_go

    def noted() -> None:
        lengths.append(sequence.num_output - sequence.answer.num_tokens)
        let_go()

    engine._let_go = noted  # type: ignore[method-assign]
    engine.start()
    async for _ in sequence.stream():
        pass
    await engine.stop()
    # What is not told yet: a step that is being told, and one that has just been run.
    assert max(lengths) <= 2
    assert sequence.num_output == end_of(answer, answer[6:8])


async def test_rows_that_were_computed_in_vain_mislead_nobody(
    model: TargetModel, answer: list[int]
) -> None:
    hf = FAMILIES[0].build()
    engine = make_engine(model, Noting(answer, 2))
    engine.start()
    for offset in (3, 7, 12):
        await collect(engine, stopping_at(answer, offset))
        for last in (3, 40):
            prompt = [*PROMPT, *answer[: end_of(answer, answer[offset : offset + 2])], last]
            runs, _ = await collect(engine, make_request(prompt, 8, mode=Mode.OFF))
            assert ids_of(runs) == generate(hf, prompt, 8, [])
    await engine.stop()


async def test_an_end_that_is_found_while_its_sequence_has_no_slot_ends_it(
    model: TargetModel, answer: list[int]
) -> None:
    """The sequence has said enough to be paused, and another one takes its slot just then."""
    engine = make_engine(model, None, max_unread_tokens=1)
    tell, held = engine._tell, asyncio.Event()
    first = engine.submit(stopping_at(answer, 4, mode=Mode.OFF))
    others = [engine.submit(make_request([3, 4, 5 + i], 30)) for i in range(3)]
    waiting: list[tuple[Sequence, Emission]] = []

    def late(sequence: Sequence, emission: Emission) -> None:
        if sequence is first and not held.is_set():
            waiting.append((sequence, emission))
        else:
            tell(sequence, emission)

    engine._tell = late  # type: ignore[method-assign]
    engine.start()
    await eventually(lambda: first.clock.admitted > 0 and first.slot < 0)
    held.set()
    for each in waiting:
        tell(*each)
    streams = [each.stream() for each in (first, *others)]
    found = await asyncio.gather(*map(_ids, streams))
    await engine.stop()
    end = end_of(answer, answer[4:6])
    assert found[0] == answer[:end]
    assert [len(ids) for ids in found[1:]] == [30] * 3
    assert model.slots.num_free == 2


async def _ids(stream) -> list[int]:  # type: ignore[no-untyped-def]
    return ids_of([event async for event in stream if isinstance(event, TokenRun)])


async def test_a_drafter_learns_only_what_was_told(model: TargetModel, answer: list[int]) -> None:
    async def nothing(request: pb.DraftRequest) -> pb.DraftResponse:
        return pb.DraftResponse(step=request.step)

    async with RunningDrafter(nothing) as drafter:
        drafts = DraftClient([drafter.address], vocabulary="v", vocabulary_size=VOCABULARY_SIZE)
        drafts.start()
        await eventually(lambda: drafts.is_connected)
        tokens = list(PROMPT)
        drafts.open(1, tokens, len(PROMPT), make_request(PROMPT, 9).speculation)
        tokens += answer[:6]
        drafts.request({})
        await asyncio.to_thread(drafts.wait, 10.0)
        del tokens[-2:]
        drafts.close(1, learn=True)
        assert drafts.has_news
        drafts.request({})
        await eventually(lambda: len(drafter.servicer.requests) == 2)
        await drafts.stop()
    first, last = drafter.servicer.requests
    assert list(first.open[0].token_ids) == [*PROMPT, *answer[:6]]
    assert [(o.sequence_id, list(o.token_ids)) for o in last.open] == [
        (1 + LEARNED_BY, [*PROMPT, *answer[:4]])
    ]
    assert [(c.sequence_id, c.learn) for c in last.close] == [(1, False), (1 + LEARNED_BY, True)]


async def test_a_client_that_leaves_once_it_has_read_the_end_takes_nothing_back(
    model: TargetModel, answer: list[int]
) -> None:
    drafts = Noting(answer, 0)
    engine = make_engine(model, drafts)
    engine.start()
    for offset in range(8):
        sequence = engine.submit(stopping_at(answer, offset))
        async for _ in sequence.stream():
            pass
        engine.cancel(sequence)
    await engine.stop()
    ends = [end_of(answer, answer[offset : offset + 2]) for offset in range(8)]
    assert drafts.learned == [[*PROMPT, *answer[:end]] for end in ends]


async def test_text_that_cannot_be_made_ends_the_engine_and_says_so(
    model: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(model, None)
    reasons: list[str] = []
    engine.on_death = reasons.append

    def broken(sequence: Sequence, emission: Emission) -> None:
        raise ValueError("no text")

    monkeypatch.setattr(engine, "_tell", broken)
    engine.start()
    with pytest.raises(EngineError, match="no text"):
        await collect(engine, make_request(PROMPT, 20))
    assert reasons and "no text" in reasons[0]
    await engine.stop()
