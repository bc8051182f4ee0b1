"""Streams in another shape than their steps: the same words, and sizes that tell nothing."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import verifier_pb2 as pb
from tests.support.servers.running_verifier import TOKENIZER, copycat, ids_of, running, text_of
from verifier.api.shape import BLOCK_BYTES, Shape
from verifier.config import parse_shape
from verifier.engine.events import Completion, Event, PromptRun, TokenRun
from verifier.sampling.ranking import TokenLogprobs

END: Any = Completion.__new__(Completion)
INTERVAL_S = 0.02


class Said:
    """What an answer says: each list at a later time than the one before."""

    def __init__(self, times: Sequence[Sequence[Event]], pause_s: float = 0.0) -> None:
        self._times, self._pause_s = times, pause_s
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def has_more(self) -> bool:
        return not self._events.empty()

    async def _say(self) -> None:
        for events in self._times:
            for event in events:
                self._events.put_nowait(event)
            await asyncio.sleep(self._pause_s)

    async def stream(self) -> Any:
        saying = asyncio.create_task(self._say())
        while True:
            event = await self._events.get()
            yield event
            if event is END:
                await saying
                return


def heard(shape: Shape, said: Said) -> list[Event]:
    async def listen() -> list[Event]:
        return [event async for event in shape.events(said)]  # type: ignore[arg-type]

    return asyncio.run(listen())


def runs_of(lengths: Sequence[int]) -> Iterator[TokenRun]:
    first = 0
    for length in lengths:
        ids = tuple(range(first, first + length))
        logprobs = tuple(TokenLogprobs(-float(i), (), 1) for i in ids)
        text = "".join(f"<{i}>" for i in ids)
        yield TokenRun(first, ids, text, num_drafted=length - 1, logprobs=logprobs)
        first += length


def text_until(run: TokenRun) -> int:
    """How many tokens' text there may be by the end of a run."""
    return run.first_index + len(run.token_ids)


LENGTHS = st.lists(st.integers(1, 9), max_size=20)


@given(LENGTHS, st.integers(1, 12))
def test_runs_have_as_many_tokens_each_and_no_text_is_early_or_lost(
    lengths: list[int], num_tokens: int
) -> None:
    told = list(runs_of(lengths))
    *runs, end = heard(Shape(num_tokens), Said([[*told, END]]))
    assert end is END
    assert all(isinstance(run, TokenRun) for run in runs)
    flat = [run for run in runs if isinstance(run, TokenRun)]
    assert [i for run in flat for i in run.token_ids] == list(range(sum(lengths)))
    assert all(len(run.token_ids) == num_tokens for run in flat[:-1])
    assert [p.logprob for run in flat for p in run.logprobs] == [-i for i in range(sum(lengths))]
    assert all(run.num_drafted == 0 for run in flat), "tells what was drafted"
    text = ""
    for run in flat:
        text += run.text
        assert text.count("<") <= text_until(run)
    assert text == "".join(run.text for run in told)


@given(LENGTHS)
def test_messages_of_an_interval_keep_the_order_and_every_token(lengths: list[int]) -> None:
    prompt = PromptRun(0, (1, 2), ())
    told = list(runs_of(lengths))
    shaped = heard(Shape(interval_s=1e-4), Said([[prompt], told, [END]]))
    assert shaped[0] is prompt
    assert shaped[-1] is END
    runs = [run for run in shaped if isinstance(run, TokenRun)]
    assert [i for run in runs for i in run.token_ids] == list(range(sum(lengths)))
    assert "".join(run.text for run in runs) == "".join(run.text for run in told)


def test_no_two_messages_are_closer_than_the_interval() -> None:
    async def times() -> list[float]:
        said: Any = Said([[run] for run in runs_of([1] * 30)] + [[END]], pause_s=INTERVAL_S / 7)
        loop = asyncio.get_running_loop()
        return [loop.time() async for _ in Shape(interval_s=INTERVAL_S).events(said)]

    found = asyncio.run(times())
    assert 4 <= len(found) < 30
    # The last run and the end share a message's time.
    gaps = [later - sooner for sooner, later in itertools.pairwise(found[:-1])]
    # A message that leaves late, on a busy machine, does not put off those behind it.
    assert all(gap > INTERVAL_S / 2 for gap in gaps)
    assert sum(gaps) >= INTERVAL_S * (len(gaps) - 1)


@given(st.text(max_size=700), st.sampled_from([Shape(16), Shape(interval_s=0.1)]))
def test_every_message_of_a_shaped_stream_is_whole_blocks(text: str, shape: Shape) -> None:
    reply = shape.fill(pb.GenerateResponse(tokens=pb.Tokens(text=text)))
    assert reply.ByteSize() % BLOCK_BYTES == 0
    assert reply.tokens.text == text
    plain = pb.GenerateResponse(tokens=pb.Tokens(text=text))
    assert not Shape().fill(plain).padding


@pytest.mark.parametrize("num_bytes", range(2 * BLOCK_BYTES))
def test_no_length_of_a_message_shows(num_bytes: int) -> None:
    reply = pb.GenerateResponse(tokens=pb.Tokens(text="a" * num_bytes))
    assert Shape(1).fill(reply).ByteSize() % BLOCK_BYTES == 0


@pytest.mark.parametrize(
    "text", ["", "tokens", "tokens:", "tokens:0", "tokens:257", "ms:-1", "s:1"]
)
def test_a_shape_that_there_is_not_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_shape(text)


@pytest.mark.parametrize("shape", [Shape(8), Shape(interval_s=0.005)])
async def test_a_client_gets_the_same_words_in_every_shape(shape: Shape) -> None:
    fields: dict[str, Any] = {
        "text": "a stitch in time",
        "stopping": pb.Stopping(max_tokens=41, ignore_eos=True),
        "output": pb.Output(logprobs=True),
        "speculation": pb.Speculation(mode=pb.Speculation.MODE_TREE),
    }
    async with running() as verifier:
        plain = await verifier.generate(**fields)
    async with running(copycat(TOKENIZER.encode("a stitch in time") + ids_of(plain))) as verifier:
        assert verifier.service.backend is not None
        verifier.service.backend.shape = shape
        shaped = await verifier.generate(**fields)
    assert ids_of(shaped) == ids_of(plain)
    assert text_of(shaped) == text_of(plain)
    assert all(event.ByteSize() % BLOCK_BYTES == 0 for event in shaped[1:])
    tokens = [event.tokens for event in shaped if event.WhichOneof("event") == "tokens"]
    assert [len(run.logprobs) for run in tokens] == [len(run.token_ids) for run in tokens]
    if shape.num_tokens:
        assert [len(run.token_ids) for run in tokens] == [8, 8, 8, 8, 8, 1]
