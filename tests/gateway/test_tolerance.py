"""A field that cannot change the words turns nobody away; the answer names it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lookahead.gateway.tolerance import HARMLESS
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import gateway, host

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MARK = {"cache_control": {"type": "ephemeral"}}
# What each client adds to its requests, from their sources.
SENT: dict[str, dict[str, Any]] = {
    "metadata": {"metadata": {"trace_version": "1", "tags": []}},
    "store": {"store": True},
    "caches": {
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"a": 1},
    },
    "accounts": {"service_tier": "flex", "safety_identifier": "s", "request_id": "r"},
    "litellm": {"litellm_session_id": "x", "drop_params": True},
    "hints": {"verbosity": "low", "num_ctx": 8192, "keep_alive": "5m"},
    "nothing asked": {"functions": [], "function_call": "auto", "modalities": ["text"]},
    "exactness": {"lookahead": {"exactness": "guarded"}},
}
MESSAGES: dict[str, dict[str, Any]] = {
    "messages[].name": {"role": "user", "content": "a", "name": "planner"},
    "messages[].refusal": {"role": "assistant", "content": "a", "refusal": ""},
    "messages[].annotations": {"role": "assistant", "content": "a", "annotations": []},
    "messages[].cache_control": {"role": "user", "content": "a", **MARK},
    "messages[].content[].cache_control": {
        "role": "user",
        "content": [{"type": "text", "text": "a", **MARK}],
    },
    "messages[].tool_calls[].cache_control": {"role": "assistant", "tool_calls": [CALL | MARK]},
}


@pytest.fixture(scope="module")
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture(scope="module")
def urls(verifier: FakeVerifier) -> Iterator[tuple[str, str]]:
    with (
        host() as loop,
        serving(verifier) as address,
        loop.holding(gateway(address)) as strict,
        loop.holding(gateway(address, unknown_fields="ignore")) as lenient,
    ):
        yield f"http://{strict}", f"http://{lenient}"


def ask(url: str, path: str = CHAT, **fields: Any) -> httpx.Response:
    base = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    return httpx.post(f"{url}{path}", json={"seed": 1, **base, **fields}, timeout=10)


def names_of(fields: dict[str, Any]) -> set[str]:
    return {
        f"{name}.{next(iter(value))}" if name == "lookahead" else name
        for name, value in fields.items()
    }


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_harmless_field_changes_nothing_and_is_named(
    urls: tuple[str, str], verifier: FakeVerifier, path: str, name: str
) -> None:
    ask(urls[0], path)
    answer = ask(urls[0], path, **SENT[name])
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["lookahead"]["ignored"]) == names_of(SENT[name])
    assert set(answer.headers["x-lookahead-ignored"].split(", ")) == names_of(SENT[name])
    plain, sent = verifier.requests[-2:]
    plain.request_id = sent.request_id
    assert plain == sent


@pytest.mark.parametrize("name", MESSAGES)
def test_harmless_fields_of_messages_are_named_without_their_place(
    urls: tuple[str, str], name: str
) -> None:
    answer = ask(urls[0], messages=[MESSAGES[name]] * 2)
    assert answer.status_code == 200, answer.text
    assert answer.json()["lookahead"]["ignored"] == [name]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/responses",
            {
                "input": [
                    {
                        "role": "assistant",
                        "name": "planner",
                        "content": [
                            {
                                "type": "output_text",
                                "text": "a",
                                "annotations": [],
                                "logprobs": [],
                            }
                        ],
                    }
                ],
                "include": ["reasoning.encrypted_content"],
                "truncation": "auto",
                "client_metadata": {"a": "b"},
                "stream_options": {"include_obfuscation": False},
                "text": {"verbosity": "low"},
                "reasoning": {"summary": "auto", "generate_summary": "auto"},
            },
        ),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a", "citations": [], **MARK},
                            {
                                "type": "tool_result",
                                "tool_use_id": "1",
                                "content": [{"type": "text", "text": "a", **MARK}],
                                "caller": {"type": "direct"},
                            },
                        ],
                    }
                ],
                "system": [{"type": "text", "text": "a", **MARK}],
                "tools": [
                    {
                        "name": "f",
                        "input_schema": {},
                        "eager_input_streaming": True,
                        "input_examples": [],
                        **MARK,
                    }
                ],
                "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "full"},
                "context_management": {},
                "speed": "standard",
                **MARK,
            },
        ),
    ],
)
def test_the_newer_apis_ignore_theirs(
    urls: tuple[str, str], path: str, fields: dict[str, Any]
) -> None:
    answer = httpx.post(f"{urls[0]}{path}", json=fields, timeout=10)
    assert answer.status_code == 200, answer.text
    ignored = set(answer.json()["lookahead"]["ignored"])
    assert len(ignored) >= 9 and ignored <= HARMLESS.keys()


def test_a_stream_names_them_too(urls: tuple[str, str]) -> None:
    options = {"include_usage": True, "include_obfuscation": False, "continuous_usage_stats": True}
    answer = ask(urls[0], stream=True, stream_options=options, metadata={}, max_tokens=12)
    named = ["metadata", "stream_options.include_obfuscation"]
    assert answer.headers["x-lookahead-ignored"].split(", ") == named
    *chunks, last = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    assert last["lookahead"]["ignored"] == named
    counts = [c["usage"]["completion_tokens"] for c in chunks if "usage" in c]
    assert counts == sorted(counts) and counts[-1] == last["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": None, "stream_options": None, "tools": None, "stop": None},
        {"lookahead": {"mode": None, "max_nodes": None}},
        {"response_format": {"type": "text", "json_schema": None}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {}, "strict": None, "description": None},
            }
        },
        {"tools": [{"type": "function", "function": {"name": "f", "description": None}}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL], "name": None}]},
        {"messages": [{"role": "user", "content": "a", "audio": None, "function_call": None}]},
    ],
)
def test_null_counts_as_not_given_wherever_it_stands(
    urls: tuple[str, str], fields: dict[str, Any]
) -> None:
    answer = ask(urls[0], **fields)
    assert answer.status_code == 200, answer.text
    assert "ignored" not in answer.json()["lookahead"]


def test_null_in_a_schema_means_null(urls: tuple[str, str], verifier: FakeVerifier) -> None:
    schema = {"enum": [None, 1], "default": None, "properties": {"a": {"const": None}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    function = {"name": "f", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    assert ask(urls[0], response_format=wanted, tools=tools).status_code == 200
    sent = verifier.requests[-1]
    assert json.loads(sent.constraint.json_schema) == schema
    assert json.loads(sent.chat.tools[0].parameters) == schema


def test_an_unknown_field_is_refused_or_ignored_as_the_server_is_told(
    urls: tuple[str, str],
) -> None:
    strict, lenient = urls
    fields = {"speed": 9, "lookahead": {"pace": 1}, "metadata": {}, "étrange": 1}
    refused = ask(strict, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in ("speed", "lookahead.pace", "étrange")
    assert refused.json()["error"]["code"] == "unknown_parameter"
    answer = ask(lenient, **fields)
    assert answer.status_code == 200
    named = {"speed", "lookahead.pace", "metadata", "étrange"}
    assert set(answer.json()["lookahead"]["ignored"]) == named
    assert set(answer.headers["x-lookahead-ignored"].split(", ")) == named - {"étrange"}
    wrong = ask(lenient, speed=9, temperature="warm")
    assert wrong.json()["error"]["param"] == "temperature"
