"""Work that takes long leaves the event loop to others."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lookahead.gateway import routes
from lookahead.gateway.completions.format import OpenAIFormat
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture
def client(loop: Host) -> Iterator[httpx.Client]:
    with (
        serving(FakeVerifier()) as address,
        loop.holding(gateway(address)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=20) as client,
    ):
        yield client


class Places:
    """In which threads a function ran."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.names: list[str] = []

    def __call__(self, *arguments: Any) -> Any:
        self.names.append(threading.current_thread().name)
        return self._function(*arguments)


def test_long_bodies_are_read_in_a_thread(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(routes.parse)
    monkeypatch.setattr(routes, "parse", places)
    for ids in ([5, 6], [5] * 100_000):
        assert client.post(COMPLETIONS, json={"prompt": ids}).status_code == 200
    short, long = places.names
    assert short == "host"
    assert long != "host"


def test_answers_with_many_log_probabilities_are_written_in_a_thread(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(OpenAIFormat.body)
    monkeypatch.setattr(OpenAIFormat, "body", lambda self, answer: places(self, answer))
    for fields in ({}, {"n": 4, "logprobs": 2, "max_tokens": 32}):
        answer = client.post(COMPLETIONS, json={"prompt": "once", **fields})
        assert answer.status_code == 200
    plain, heavy = places.names
    assert plain == "host"
    assert heavy != "host"
