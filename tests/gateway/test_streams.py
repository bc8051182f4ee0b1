"""Streams whose clients leave, stop reading or only wait: what they cost, and for how long."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psutil
import pytest

from lookahead import Client
from tests.support.models.engine_runs import steps_of
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host
from tests.support.servers.running_verifier import verifier
from verifier.engine.counters import StepStats

pytestmark = pytest.mark.slow

COMPLETIONS = "/v1/completions"
DEADLINE_S = 20.0
NUM_IDLE = 64


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


@contextmanager
def posted(front: str, **body: Any) -> Iterator[socket.socket]:
    """A connection on which a request was sent and nothing was read."""
    text = json.dumps(body)
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(text)}\r\n"
    hostname, _, port = front.rpartition(":")
    with socket.socket() as connection:
        # Small, so that what is not read does not hide in the system's buffers.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((hostname, int(port)))
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{text}".encode())
        yield connection


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": False}, {"stream": True, "n": 3}])
def test_a_client_that_hangs_up_cancels_the_generation(loop: Host, fields: dict[str, Any]) -> None:
    servicer = FakeVerifier()
    with serving(servicer) as address, loop.holding(gateway(address)) as front:
        with posted(front, prompt="forever", **fields) as connection:
            wait_until(lambda: len(servicer.requests) == fields.get("n", 1), "the call arrives")
            if fields["stream"]:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            assert not servicer.was_cancelled.is_set()
        assert servicer.was_cancelled.wait(DEADLINE_S)
        wait_until(lambda: servicer.num_running == 0, "every generation ends")


def test_a_client_that_hangs_up_frees_the_slots_of_a_real_engine(loop: Host) -> None:
    with loop.holding(verifier()) as (address, engine), loop.holding(gateway(address)) as front:
        for stream in (True, False):
            body = {"prompt": "the", "max_tokens": 200, "ignore_eos": True, "n": 2}
            with posted(front, stream=stream, **body):
                wait_until(lambda: engine.num_running == 2, "both run")
            wait_until(lambda: engine.num_running + engine.num_waiting == 0, "slots are free")


def test_one_bad_choice_cancels_its_siblings(loop: Host) -> None:
    servicer = FakeVerifier()
    with serving(servicer) as address, loop.holding(gateway(address)) as front:
        response = httpx.post(
            f"http://{front}{COMPLETIONS}", json={"prompt": ["forever", "cut"]}, timeout=DEADLINE_S
        )
        assert response.status_code == 500
        wait_until(lambda: servicer.num_running == 0, "the sibling ends")


def test_a_client_that_stops_reading_is_dropped_and_held_little_memory(loop: Host) -> None:
    servicer = FakeVerifier()
    process = psutil.Process()
    with (
        serving(servicer) as address,
        loop.holding(gateway(address, write_timeout_s=2.0)) as front,
    ):
        before = process.memory_info().rss
        with ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(posted(front, prompt="forever", stream=True))
            wait_until(lambda: len(servicer.requests) == 6, "all calls arrive")
            assert servicer.was_cancelled.wait(DEADLINE_S)
            wait_until(lambda: servicer.num_running == 0, "all are dropped")
            # The generations never end by themselves: without limits this grows until the drop.
            assert process.memory_info().rss - before < 64 << 20


def test_a_slow_reader_still_gets_every_event(loop: Host) -> None:
    with (
        loop.holding(verifier()) as (address, _),
        loop.holding(gateway(address)) as front,
        Client(address) as client,
    ):
        expected = client.generate("the", max_tokens=200, ignore_eos=True).wait().text
        body = {"prompt": "the", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
        with posted(front, stream=True, **body) as connection:
            received = b""
            while b"[DONE]" not in received:
                time.sleep(0.002)
                received += connection.recv(512)
    lines = [line for line in received.split(b"\n") if line.startswith(b"data: {")]
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in lines]
    assert "".join(texts) == expected


async def test_idle_readers_cost_the_engine_nothing(loop: Host) -> None:
    """64 clients that read nothing cost the steps of their own answers, and not one more."""
    with (
        loop.holding(verifier()) as (address, engine),
        loop.holding(gateway(address)) as front,
        ExitStack() as idle,
        Client(address) as client,
    ):
        steps = steps_of(engine)
        alone = await _steps_of_an_answer(client, steps)
        for _ in range(NUM_IDLE // 8):
            for _ in range(8):  # as many as run and wait at once without a refusal
                body = {"prompt": "the", "stream": True, "max_tokens": 40, "ignore_eos": True}
                idle.enter_context(posted(front, **body))
            await asyncio.to_thread(wait_until, lambda: _num_emitted(steps) == 8 * 39, "all end")
            assert engine.num_running + engine.num_waiting == 0
            steps.clear()
        assert await _steps_of_an_answer(client, steps) == alone


async def _steps_of_an_answer(client: Client, steps: list[StepStats]) -> list[tuple[int, int]]:
    """Ask for an answer; for each step how many sequences decoded in it, and their tokens."""
    client.generate("a stitch", max_tokens=30, ignore_eos=True).wait()
    # The last words arrive before the engine has told of the step that said them.
    await asyncio.to_thread(wait_until, lambda: _num_emitted(steps) == 29, "all steps are told")
    shapes = [(step.num_decoding, step.num_emitted) for step in steps]
    steps.clear()
    return shapes


def _num_emitted(steps: list[StepStats]) -> int:
    """Tokens but for each answer's first, which its prompt's step brings."""
    return sum(step.num_emitted for step in steps)


def test_events_are_whole_blocks_where_their_sizes_must_not_tell_anything(loop: Host) -> None:
    sent: list[bytes] = []

    async def events(body: dict[str, Any]) -> str:
        async with (
            gateway(address, event_block_bytes=128) as front,
            httpx.AsyncClient(base_url=f"http://{front}") as client,
            client.stream("POST", COMPLETIONS, json=body) as answer,
        ):
            sent.extend([block async for block in answer.aiter_raw()])
        return b"".join(sent).decode()

    with serving(FakeVerifier()) as address:
        text = loop.run(events({"prompt": "a", "stream": True, "max_tokens": 30}))
    lengths = [len(block) for block in sent]
    assert len(lengths) > 3
    assert all(length % 128 == 0 for length in lengths), lengths
    data = [line for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "data: [DONE]"
    said = "".join(json.loads(line[6:])["choices"][0]["text"] for line in data[:-1])
    assert len(said) == 30
    assert said in ANSWER
