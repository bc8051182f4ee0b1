"""What a model thinks is a field of its own, whole and streamed; requests say how much it is."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.support.servers.fake_verifier import serving
from tests.support.servers.parts_verifier import PartsVerifier
from tests.support.servers.running_gateway import gateway, host

pytestmark = pytest.mark.clients
ASKED = {"role": "user", "content": "Rome and Oslo?"}


@pytest.fixture(scope="module")
def verifier() -> PartsVerifier:
    return PartsVerifier()


@pytest.fixture(scope="module")
def client(verifier: PartsVerifier) -> Iterator[OpenAI]:
    with (
        host() as loop,
        serving(verifier) as address,
        loop.holding(gateway(address)) as front,
        OpenAI(base_url=f"http://{front}/v1", api_key="none", max_retries=0) as openai,
    ):
        yield openai


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "", "messages": [ASKED], **fields})


def test_an_answer_has_its_reasoning_beside_its_content(client: OpenAI) -> None:
    answer = ask(client)
    message = answer.choices[0].message
    assert message.reasoning_content == "Rome, then Oslo."
    assert message.content == "I look it up."
    assert [call.function.arguments for call in message.tool_calls] == [
        '{"city": "Rome"}',
        '{"city": "Oslo"}',
    ]
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2


def test_a_stream_has_it_too(client: OpenAI) -> None:
    deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True)]
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert list(filter(None, thoughts)) == ["Rome, ", "then Oslo."]
    assert "".join(delta.content or "" for delta in deltas) == "I look it up."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [call.index for call in calls] == [0, 0, 1]
    assert [call.function.name for call in calls] == ["weather", None, "weather"]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, None),
        ({"reasoning_effort": "high"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "a": [1]}, "enable_thinking": False},
            {"enable_thinking": True, "a": [1]},
        ),
    ],
)
def test_a_request_says_how_much_is_thought(
    client: OpenAI, verifier: PartsVerifier, fields: dict[str, Any], options: Any
) -> None:
    ask(client, extra_body=fields)
    sent = verifier.requests[-1].chat.template_options
    assert (json.loads(sent) if sent else None) == options


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_was_thought_is_sent_back(client: OpenAI, verifier: PartsVerifier, name: str) -> None:
    ask(client, messages=[ASKED, {"role": "assistant", "content": "yes", name: "hm"}, ASKED])
    assert verifier.requests[-1].chat.messages[1].reasoning == "hm"
