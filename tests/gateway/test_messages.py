"""/v1/messages: the bodies and events that Anthropic's clients expect."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import serving
from tests.support.servers.parts_verifier import FULL_ANSWER, PartsVerifier, call, said
from tests.support.servers.running_gateway import gateway, host

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": CITY}
MARK = {"cache_control": {"type": "ephemeral"}}
ASKED = {"role": "user", "content": "Rome and Oslo?"}


@pytest.fixture(scope="module")
def verifier() -> PartsVerifier:
    return PartsVerifier()


@pytest.fixture(scope="module")
def client(verifier: PartsVerifier) -> Iterator[httpx.Client]:
    with (
        host() as loop,
        serving(verifier) as address,
        loop.holding(gateway(address, keys={"secret": "team"})) as front,
        httpx.Client(
            base_url=f"http://{front}/v1", timeout=10, headers={"x-api-key": "secret"}
        ) as client,
    ):
        yield client


def ask(client: httpx.Client, path: str = "/messages", **fields: Any) -> httpx.Response:
    base = {"model": "", "messages": [ASKED], "tools": [WEATHER]}
    limit = {"max_tokens": 50} if path == "/messages" else {}
    return client.post(path, json={**base, **limit, **fields})


def events(text: str) -> list[dict[str, Any]]:
    found = []
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_an_answer_has_a_block_for_each_part(client: httpx.Client) -> None:
    answer = ask(client).json()
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "fake")
    thought, text, rome, oslo = answer["content"]
    assert thought == {"type": "thinking", "thinking": "Rome, then Oslo.", "signature": ""}
    assert text == {"type": "text", "text": "I look it up."}
    assert (rome["type"], rome["name"], rome["input"]) == ("tool_use", "weather", {"city": "Rome"})
    assert rome["id"] != oslo["id"]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
    assert answer["usage"] == {
        "input_tokens": 4,
        "cache_read_input_tokens": 16,
        "cache_creation_input_tokens": 0,
        "output_tokens": 7,
    }
    assert answer["lookahead"]["num_steps"] == 0


def test_the_events_of_a_stream_add_up_to_the_answer(client: httpx.Client) -> None:
    first, ping, *middle, delta, last = events(ask(client, stream=True).text)
    assert first["message"]["content"] == [] and first["message"]["usage"]["input_tokens"] == 20
    assert (ping["type"], last["type"]) == ("ping", "message_stop")
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == 7
    blocks: list[dict[str, Any]] = []
    for event in middle:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            add(blocks[event["index"]], event["delta"])
        else:
            assert event == {"type": "content_block_stop", "index": len(blocks) - 1}
    whole = ask(client).json()["content"]
    for block, expected in zip(blocks, whole, strict=True):
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json"))
        assert {**block, "id": ""} == {**expected, "id": ""}


def add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    fields = {
        "text_delta": ("text", "text"),
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("signature", "signature"),
        "input_json_delta": ("json", "partial_json"),
    }
    name, source = fields[delta["type"]]
    block[name] = block.get(name, "") + delta[source]


def test_blocks_of_earlier_turns_become_messages(
    client: httpx.Client, verifier: PartsVerifier
) -> None:
    answered = ask(client).json()["content"]
    calls = [block for block in answered if block["type"] == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": calls[0]["id"], "content": "22", **MARK},
        {
            "type": "tool_result",
            "tool_use_id": calls[1]["id"],
            "content": [{"type": "text", "text": "no such city"}],
            "is_error": True,
        },
        {"type": "text", "text": "Well?", **MARK},
    ]
    told = [ASKED, {"role": "assistant", "content": answered}, {"role": "user", "content": results}]
    system = [{"type": "text", "text": "Be brief.", **MARK}, {"type": "text", "text": "Be kind."}]
    answer = ask(client, messages=told, system=system, metadata={"user_id": "u"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["lookahead"]["ignored"] == [
        "messages[].content[].cache_control",
        "metadata",
        "system[].cache_control",
    ]
    sent = verifier.requests[-1]
    assert sent.speculation.namespace == "team"
    said_so = [(message.role, message.content) for message in sent.chat.messages]
    assert said_so == [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "Rome and Oslo?"),
        ("assistant", "I look it up."),
        ("tool", "22"),
        ("tool", "Error: no such city"),
        ("user", "Well?"),
    ]
    answer_sent = sent.chat.messages[2]
    assert answer_sent.reasoning == "Rome, then Oslo."
    ids = [call.id for call in answer_sent.tool_calls]
    assert ids == [message.tool_call_id for message in sent.chat.messages[3:5]]
    assert answer_sent.tool_calls[0].arguments == '{"city": "Rome"}'


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, (pb.ChatMessages.TOOL_CHOICE_UNSPECIFIED, "", False)),
        ({"type": "none"}, (pb.ChatMessages.TOOL_CHOICE_NONE, "", False)),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            (pb.ChatMessages.TOOL_CHOICE_REQUIRED, "", True),
        ),
        (
            {"type": "tool", "name": "weather"},
            (pb.ChatMessages.TOOL_CHOICE_REQUIRED, "weather", False),
        ),
    ],
)
def test_parameters_arrive_in_the_contracts_fields(
    client: httpx.Client, verifier: PartsVerifier, choice: dict[str, Any], expected: Any
) -> None:
    answer = ask(
        client,
        tool_choice=choice,
        max_tokens=9,
        temperature=0.5,
        top_k=7,
        stop_sequences=["END"],
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"format": {"type": "json_schema", "schema": CITY}},
    )
    assert answer.status_code == 200, answer.text
    sent = verifier.requests[-1]
    assert (sent.chat.tool_choice, sent.chat.tool_name, sent.chat.single_call) == expected
    assert (sent.stopping.max_tokens, list(sent.stopping.stop_strings)) == (9, ["END"])
    assert (sent.sampling.temperature, sent.sampling.top_k) == (0.5, 7)
    assert json.loads(sent.chat.template_options) == {"enable_thinking": True}
    assert json.loads(sent.constraint.json_schema) == CITY
    assert json.loads(sent.chat.tools[0].parameters) == CITY


def test_the_end_says_what_ended_it(client: httpx.Client, verifier: PartsVerifier) -> None:
    try:
        verifier.parts = [said("I l")]
        assert ask(client).json()["stop_reason"] == "end_turn"
        verifier.reason = pb.Finished.FINISH_REASON_LENGTH
        assert ask(client).json()["stop_reason"] == "max_tokens"
        verifier.parts = [call('{"city": "Ro', name="weather")]
        cut = ask(client).json()
        assert (cut["stop_reason"], cut["content"][0]["input"]) == ("max_tokens", {})
    finally:
        verifier.parts, verifier.reason = FULL_ANSWER, pb.Finished.FINISH_REASON_STOP


def test_a_last_message_of_the_assistant_goes_on(
    client: httpx.Client, verifier: PartsVerifier
) -> None:
    begun = {"role": "assistant", "content": "The answer is"}
    assert ask(client, messages=[ASKED, begun]).status_code == 200
    assert verifier.requests[-1].chat.continues_last
    assert ask(client).status_code == 200
    assert not verifier.requests[-1].chat.continues_last


def test_tokens_are_counted(client: httpx.Client) -> None:
    answer = ask(client, "/messages/count_tokens")
    assert answer.json() == {"input_tokens": 1 + len(ASKED["content"])}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "messages[0].content[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"tools": [{"name": "w"}]}, "tools[0].input_schema"),
        ({"speed": "fast"}, "speed"),
        ({"container": "c"}, "container"),
    ],
)  # fmt: skip
def test_errors_have_anthropics_form_and_name_the_field(
    client: httpx.Client, fields: Any, param: str
) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param
    assert param in body["error"]["message"]


def test_other_errors_have_anthropics_form_too(client: httpx.Client) -> None:
    wrong_key = client.post("/messages", json={}, headers={"x-api-key": "wrong"})
    assert wrong_key.status_code == 401
    assert wrong_key.json()["error"]["type"] == "authentication_error"
    model = ask(client, model="claude")
    assert (model.status_code, model.json()["error"]["type"]) == (404, "not_found_error")
    method = client.get("/messages")
    assert (method.status_code, method.json()["type"]) == (405, "error")
    bearer = client.get("/models", headers={"x-api-key": "", "authorization": "Bearer secret"})
    azure = client.get("/models", headers={"x-api-key": "", "api-key": "secret"})
    assert (bearer.status_code, azure.status_code) == (200, 200)


def test_a_stream_that_fails_ends_with_an_error(
    client: httpx.Client, verifier: PartsVerifier
) -> None:
    verifier.reason = pb.Finished.FINISH_REASON_SHUTDOWN
    try:
        last = events(ask(client, stream=True).text)[-1]
    finally:
        verifier.reason = pb.Finished.FINISH_REASON_STOP
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
