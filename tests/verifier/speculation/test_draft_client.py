"""Whatever the drafter does, the text is the model's own; and it is used again when it returns."""

import asyncio
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from protos import drafter_pb2 as pb
from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    target_model,
)
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE, generate
from tests.support.servers.fake_drafter import Answer, RunningDrafter, asked, never
from tests.support.waiting import eventually
from verifier.engine.answer import Emission
from verifier.engine.engine import Engine
from verifier.engine.events import Completion
from verifier.engine.sequence import Sequence
from verifier.model.model import TargetModel
from verifier.speculation import draft_client
from verifier.speculation.draft_client import DraftClient

pytestmark = pytest.mark.slow

PROMPT = [5, 9, 33, 4, 17]
NUM_TOKENS = 60
LENGTHS: dict[int, int] = {}


@pytest.fixture(scope="module")
def answer() -> list[int]:
    return generate(FAMILIES[0].build(), PROMPT, NUM_TOKENS, [])


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=2, max_context=160)


def client(*addresses: str) -> DraftClient:
    return DraftClient(addresses, vocabulary="v", vocabulary_size=VOCABULARY_SIZE)


def engine_over(model: TargetModel, drafts: DraftClient) -> Engine:
    return make_engine(model, drafts)  # type: ignore[arg-type]


def perfect(answer: list[int]) -> Answer:
    """Right drafts from what the requests tell, as a real drafter would know it."""
    known: dict[int, list[int]] = {}

    async def reply(request: pb.DraftRequest) -> pb.DraftResponse:
        for opened in request.open:
            known[opened.sequence_id] = list(opened.token_ids)
        for observed in request.observe:
            known[observed.sequence_id] += observed.token_ids
        response = pb.DraftResponse(step=request.step)
        for sequence_id, max_nodes in asked(request):
            done = len(known[sequence_id]) - len(PROMPT)
            path = answer[done : done + min(6, max_nodes)]
            response.drafts.add(
                sequence_id=sequence_id,
                committed_len=len(known[sequence_id]),
                token_ids=path,
                parents=range(-1, len(path) - 1),
                probabilities=[0.9] * len(path),
            )
        return response

    return reply


def hostile(**fields: object) -> Answer:
    """The same malformed draft for everyone who asks, and for one who does not exist."""

    async def reply(request: pb.DraftRequest) -> pb.DraftResponse:
        response = pb.DraftResponse(step=request.step, unknown_sequence_ids=[999])
        for sequence_id, _ in [*asked(request), (999, 1)]:
            draft = {"sequence_id": sequence_id, "committed_len": len(PROMPT) + 1} | fields
            response.drafts.append(pb.Draft(**draft))  # type: ignore[arg-type]
        return response

    return reply


HOSTILE = {
    "cycle": {"token_ids": [1, 2], "parents": [1, 0], "probabilities": [1, 1]},
    "forward parent": {"token_ids": [1], "parents": [5], "probabilities": [1]},
    "out of vocabulary": {"token_ids": [2**31], "parents": [-1], "probabilities": [1]},
    "duplicates": {"token_ids": [1, 1], "parents": [-1, -1], "probabilities": [1, 1]},
    "too many nodes": {
        "token_ids": [1] * 5000,
        "parents": range(-1, 4999),
        "probabilities": [1] * 5000,
    },
    "lengths differ": {"token_ids": [1, 2], "parents": [-1], "probabilities": [1]},
    "NaN": {"token_ids": [1], "parents": [-1], "probabilities": [float("nan")]},
    "wrong length": {
        "token_ids": [1],
        "parents": [-1],
        "probabilities": [1],
        "committed_len": 9999,
    },
}


async def run(engine: Engine) -> tuple[list[int], Completion]:
    runs, completion = await collect(engine, make_request(PROMPT, NUM_TOKENS))
    return ids_of(runs), completion


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_drafts_never_change_the_text(
    model: TargetModel, answer: list[int], kind: str
) -> None:
    async with RunningDrafter(hostile(**HOSTILE[kind])) as drafter:
        drafts = client(drafter.address)
        engine = engine_over(model, drafts)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        ids, completion = await run(engine)
        await engine.stop()
    assert ids == answer
    assert completion.num_draft_tokens == 0
    assert drafts.num_invalid > 0


async def test_a_good_drafter_is_used_and_told_everything(
    model: TargetModel, answer: list[int]
) -> None:
    async with RunningDrafter(perfect(answer)) as drafter:
        drafts = client(drafter.address)
        engine = engine_over(model, drafts)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        ids, completion = await run(engine)
        await eventually(lambda: any(request.close for request in drafter.servicer.requests))
        await engine.stop()
    assert ids == answer
    assert completion.num_accepted_tokens > NUM_TOKENS / 2
    told = [t for r in drafter.servicer.requests for o in r.observe for t in o.token_ids]
    assert told == answer
    observed = [o for r in drafter.servicer.requests for o in r.observe if o.successors]
    for entry in observed:
        best = entry.successors[:: entry.successors_per_token]
        assert list(best) == list(entry.token_ids), "greedy text is its own best successor"
    assert [c.learn for r in drafter.servicer.requests for c in r.close] == [True]


async def test_a_decode_step_goes_through_at_most_23_files_of_the_verifier(
    model: TargetModel, answer: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    async with RunningDrafter(perfect(answer)) as drafter:
        drafts = client(drafter.address)
        engine = engine_over(model, drafts)
        step, tell = engine._step, engine._tell

        def noted_step(running: list[Sequence]) -> None:
            is_inside = all(s.is_decoding and s.num_left >= 10 for s in running)
            (noting(step, seen) if is_inside else step)(running)

        def noted_tell(sequence: Sequence, emission: Emission) -> None:
            is_inside = 0 < sequence.answer.num_tokens < NUM_TOKENS - 10
            (noting(tell, seen) if is_inside else tell)(sequence, emission)

        monkeypatch.setattr(engine, "_step", noted_step)
        monkeypatch.setattr(engine, "_tell", noted_tell)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        _, completion = await run(engine)
        await engine.stop()
    assert completion.num_accepted_tokens > NUM_TOKENS / 2
    assert {"engine/engine.py", "speculation/draft_client.py", "model/model.py"} <= seen
    # What a CPU's products and kernels add below the model's own code.
    seen -= {"model/packed_weight.py", "kernels/threads.py", "kernels/team.py"}
    # A detokenizer of the tests stands for the real one.
    assert len(seen) + 1 <= 23, " ".join(sorted(seen))


def note_into(seen: set[str]) -> Callable[[FrameType, str, object], None]:
    """A profiler that notes the files of the verifier whose functions are called."""

    def note(frame: FrameType, event: str, argument: object) -> None:
        _, is_ours, path = frame.f_code.co_filename.partition("/verifier/")
        if (
            event == "call"
            and is_ours
            and not path.startswith(("speculation/test_", "engine/test_"))
        ):
            seen.add(path)

    return note


def noting(function: Callable[..., None], seen: set[str]) -> Callable[..., None]:
    """The function, noting what it calls in its thread."""

    def noted(*arguments: object) -> None:
        sys.setprofile(note_into(seen))
        try:
            function(*arguments)
        finally:
            sys.setprofile(None)

    return noted


async def test_without_a_drafter_the_text_is_the_same(
    model: TargetModel, answer: list[int]
) -> None:
    engine = engine_over(model, client("127.0.0.1:1"))
    engine.start()
    ids, _ = await run(engine)
    await engine.stop()
    assert ids == answer


async def test_a_hanging_drafter_is_waited_for_once(
    model: TargetModel, answer: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RunningDrafter(never) as drafter:
        drafts = client(drafter.address)
        engine = engine_over(model, drafts)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        ids, _ = await run(engine)
        assert ids == answer
        assert drafts.num_deadline_misses == 1
        # When it answers again it is used again, on a new stream.
        monkeypatch.setattr(draft_client, "HANG_S", 0.05)
        drafter.servicer.answer = perfect(answer)
        async with asyncio.timeout(10):
            while (await run(engine))[1].num_accepted_tokens == 0:
                await asyncio.sleep(0.01)
        await engine.stop()


async def test_a_drafter_killed_mid_stream_and_back_is_used_again(
    model: TargetModel, answer: list[int]
) -> None:
    drafter = RunningDrafter(perfect(answer))
    async with drafter:
        drafts = client(drafter.address)
        engine = engine_over(model, drafts)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        sequence = engine.submit(make_request(PROMPT, NUM_TOKENS))
        stream = sequence.stream()
        await anext(stream)
        await drafter.kill()
        async for _ in stream:
            pass
        assert sequence.token_ids[len(PROMPT) :] == answer
        await eventually(lambda: not drafts.is_connected)
    async with drafter:
        await eventually(lambda: drafts.is_connected)
        await until_drafted(engine, answer)
        await engine.stop()


async def until_drafted(engine: Engine, answer: list[int]) -> None:
    """Run until drafts are accepted: on a busy machine drafting may be off for a while."""
    async with asyncio.timeout(30):
        while True:
            ids, completion = await run(engine)
            assert ids == answer
            if completion.num_accepted_tokens:
                return


async def test_a_stream_that_moves_to_another_drafter_opens_its_sequences_there(
    model: TargetModel, answer: list[int]
) -> None:
    async with RunningDrafter(perfect(answer)) as first, RunningDrafter(perfect(answer)) as second:
        drafts = client(first.address, second.address)
        engine = engine_over(model, drafts)
        engine.start()
        await eventually(lambda: drafts.is_connected)
        sequence = engine.submit(make_request(PROMPT, NUM_TOKENS))
        stream = sequence.stream()
        await anext(stream)
        await first.kill()
        async for _ in stream:
            pass
        ids, _ = await run(engine)
        await eventually(lambda: drafts.is_connected)
        await until_drafted(engine, answer)
        await engine.stop()
    assert sequence.token_ids[len(PROMPT) :] == ids == answer
    assert second.servicer.requests


async def test_a_late_draft_is_rerooted_under_what_was_emitted_meanwhile(
    answer: list[int],
) -> None:
    async with RunningDrafter(perfect(answer)) as drafter:
        drafts = client(drafter.address)
        drafts.start()
        await eventually(lambda: drafts.is_connected)
        tokens = [*PROMPT, answer[0]]
        drafts.open(1, tokens, len(PROMPT), make_request(PROMPT, 9).speculation)
        drafts.request({1: 8})
        tokens += answer[1:3]  # emitted before the draft arrived
        await asyncio.to_thread(drafts.wait, 10.0)
        assert list(drafts.tree(1).token_ids) == answer[3:7]
        assert len(drafts.tree(1)) == 0, "a tree is given out once"
        await drafts.stop()
