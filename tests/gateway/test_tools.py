"""Tools over OpenAI's chat API, asked for with OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.support.servers.running_gateway import gateway, host
from tests.support.servers.running_verifier import verifier

pytestmark = [pytest.mark.slow, pytest.mark.clients]

ASKED = {"role": "user", "content": "Rome?"}
MOVE = {
    "type": "function",
    "function": {
        "name": "move",
        "description": "Moves the arm.",
        "parameters": {
            "type": "object",
            "properties": {
                "to": {"enum": ["left", "right"]},
                "steps": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["to"],
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
TOOLS = [MOVE, STOP]
NAMED = {"type": "function", "function": {"name": "move"}}
LIMIT = {"max_tokens": 150, "temperature": 0}


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with (
        host() as loop,
        loop.holding(verifier(max_context=2000)) as (address, _),
        loop.holding(gateway(address)) as front,
        OpenAI(base_url=f"http://{front}/v1", api_key="none", max_retries=0) as openai,
    ):
        yield openai


def ask(client: OpenAI, **fields: Any) -> Any:
    asked = {"model": "", "messages": [ASKED], "tools": TOOLS, **LIMIT, **fields}
    return client.chat.completions.create(**asked)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_required_call_is_made_and_satisfies_its_schema(
    client: OpenAI, choice: Any, seed: int
) -> None:
    answer = ask(client, tool_choice=choice, temperature=1.5, seed=seed, parallel_tool_calls=False)
    choice_made = answer.choices[0]
    assert choice_made.finish_reason == "tool_calls"
    assert choice_made.message.content is None
    (call,) = choice_made.message.tool_calls
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    if call.function.name == "stop":
        assert choice == "required" and arguments == {}
    else:
        assert arguments["to"] in ("left", "right")
        assert 0 <= arguments.get("steps", 0) <= 9
        assert set(arguments) <= {"to", "steps"}


def test_a_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    fields = {"tool_choice": "required", "temperature": 1.5, "seed": 3, "max_tokens": 60}
    whole = ask(client, **fields).choices[0]
    names: dict[int, str] = {}
    ids: dict[int, str] = {}
    arguments: dict[int, str] = {}
    reason = None
    for chunk in ask(client, stream=True, **fields):
        delta = chunk.choices[0].delta
        assert not delta.content
        reason = chunk.choices[0].finish_reason or reason
        for call in delta.tool_calls or []:
            if call.id:
                ids[call.index], names[call.index] = call.id, call.function.name
                assert call.type == "function"
            arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    made = whole.message.tool_calls
    assert list(names.values()) == [call.function.name for call in made]
    assert list(arguments.values()) == [call.function.arguments for call in made]
    assert len(set(ids.values())) == len(ids)
    assert reason == whole.finish_reason


def test_a_call_and_its_result_are_understood(client: OpenAI) -> None:
    first = ask(client, tool_choice=NAMED)
    message = first.choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "moved"}
    told = [ASKED, message.model_dump(), result]
    answer = ask(client, messages=told, tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens
    # All that was said before is read again from its rows, the call among it.
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens


def test_without_a_call_an_answer_is_content(client: OpenAI) -> None:
    for choice in ("none", "auto"):
        answer = ask(client, tool_choice=choice, max_tokens=8)
        assert answer.choices[0].finish_reason in ("length", "stop")
        assert answer.choices[0].message.content
        assert answer.choices[0].message.tool_calls is None


def test_an_answer_that_calls_no_tool_may_have_a_form(client: OpenAI) -> None:
    schema = {"name": "n", "schema": {"enum": [1, 2]}}
    wanted = {"type": "json_schema", "json_schema": schema}
    answer = ask(client, response_format=wanted, tool_choice="none").choices[0].message
    assert answer.content in ("1", "2")
    either = ask(client, response_format=wanted).choices[0].message
    assert either.tool_calls or either.content in ("1", "2")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {**NAMED, "function": {"name": "jump"}}}, "tool_choice.function.name"),
        ({"tools": [MOVE, MOVE]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [MOVE, {**STOP, "function": {"name": "s", "parameters": {"type": "dict"}}}]},
            "tools[1].function.parameters",
        ),
        ({"extra_body": {"ignore_eos": True}}, "ignore_eos"),
    ],
)
def test_what_is_wrong_with_tools_is_named(
    client: OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_a_call_that_a_limit_cuts_short_says_so(client: OpenAI) -> None:
    answer = ask(client, tool_choice=NAMED, max_tokens=14).choices[0]
    assert answer.finish_reason == "length"
    assert len(answer.message.tool_calls or []) <= 1


def test_the_model_says_how_it_writes_calls(client: OpenAI) -> None:
    found = httpx.get(f"{client.base_url}models").json()["data"][0]
    assert found["lookahead"]["tool_format"] == "hermes"
