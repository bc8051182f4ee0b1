"""/v1/responses, asked for with OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import serving
from tests.support.servers.parts_verifier import FULL_ANSWER, PartsVerifier, call, said
from tests.support.servers.running_gateway import gateway, host

pytestmark = pytest.mark.clients

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": None}


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
    asked = {"model": "", "input": "Rome and Oslo?", "tools": [WEATHER], **fields}
    return client.responses.create(**asked)


def test_an_answer_has_an_item_for_each_part(client: OpenAI) -> None:
    answer = ask(client)
    assert answer.status == "completed"
    thought, message, *calls = answer.output
    assert thought.content[0].text == "Rome, then Oslo."
    assert answer.output_text == message.content[0].text == "I look it up."
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert {call.name for call in calls} == {"weather"}
    assert len({item.id for item in answer.output}) == 4
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (20, 7, 27)
    assert usage.input_tokens_details.cached_tokens == 16
    assert usage.output_tokens_details.reasoning_tokens == 2


def test_the_events_of_a_stream_add_up_to_the_answer(client: OpenAI) -> None:
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    item = ["output_item.added", "content_part.added"]
    done = ["content_part.done", "output_item.done"]
    arguments = "function_call_arguments"
    assert kinds == [
        "created", "in_progress",
        *item, *["reasoning_text.delta"] * 2, "reasoning_text.done", *done,
        *item, *["output_text.delta"] * 2, "output_text.done", *done,
        item[0], *[f"{arguments}.delta"] * 2, f"{arguments}.done", done[1],
        item[0], f"{arguments}.delta", f"{arguments}.done", done[1],
        "completed",
    ]  # fmt: skip
    last = events[-1].response
    finished = [event.item for event in events if event.type == "response.output_item.done"]
    plain = [item.model_dump(exclude={"id", "call_id"}) for item in finished]
    assert plain == [item.model_dump(exclude={"id", "call_id"}) for item in last.output]
    assert [item.id for item in finished] == [item.id for item in last.output]
    whole = ask(client)
    assert [item.type for item in whole.output] == [item.type for item in last.output]
    assert last.usage == whole.usage


def test_the_stream_helper_of_the_client_understands_it(client: OpenAI) -> None:
    with client.responses.stream(model="", input="Rome?", tools=[WEATHER]) as stream:
        final = stream.until_done().get_final_response()
    assert final.output_text == "I look it up."


def test_items_of_earlier_answers_become_one_message(
    client: OpenAI, verifier: PartsVerifier
) -> None:
    first = ask(client, instructions="Be brief.")
    given = [{"role": "user", "content": "Rome and Oslo?"}]
    given += [item.model_dump() for item in first.output]
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "22"}
        for item in first.output
        if item.type == "function_call"
    ]
    ask(client, instructions="Be brief.", input=[*given, *results])
    sent = verifier.requests[-1].chat
    roles = [message.role for message in sent.messages]
    assert roles == ["system", "user", "assistant", "tool", "tool"]
    answer = sent.messages[2]
    assert (answer.reasoning, answer.content) == ("Rome, then Oslo.", "I look it up.")
    assert [call.arguments for call in answer.tool_calls] == [
        '{"city": "Rome"}',
        '{"city": "Oslo"}',
    ]
    assert [m.tool_call_id for m in sent.messages[3:]] == [call.id for call in answer.tool_calls]


def test_functions_in_a_namespace_are_called_there_and_back(
    client: OpenAI, verifier: PartsVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "parts", [call('{"city": "Rome"}', name="sky__weather")])
    tools = [{"type": "namespace", "name": "sky", "description": "All above.", "tools": [WEATHER]}]
    answer = ask(client, tools=tools)
    assert [tool.name for tool in verifier.requests[-1].chat.tools] == ["sky__weather"]
    (made,) = answer.output
    assert (made.namespace, made.name) == ("sky", "weather")
    streamed = list(ask(client, tools=tools, stream=True))
    items = [event.item for event in streamed if event.type.startswith("response.output_item")]
    assert [(item.namespace, item.name) for item in items] == [("sky", "weather")] * 2
    result = {"type": "function_call_output", "call_id": made.call_id, "output": "22"}
    given = [{"role": "user", "content": "Rome?"}, made.model_dump(), result]
    ask(client, tools=tools, input=given)
    (repeated,) = verifier.requests[-1].chat.messages[1].tool_calls
    assert repeated.name == "sky__weather"


def test_parameters_arrive_in_the_contracts_fields(client: OpenAI, verifier: PartsVerifier) -> None:
    ask(
        client,
        instructions="Be brief.",
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "c", "schema": CITY}, "verbosity": "low"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        extra_body={"seed": 5, "lookahead": {"mode": "off"}},
    )
    sent = verifier.requests[-1]
    assert sent.sampling.temperature == 0.5 and sent.sampling.seed == 5
    assert sent.stopping.max_tokens == 9
    assert sent.output.parts
    assert json.loads(sent.constraint.json_schema) == CITY
    assert sent.speculation.mode == pb.Speculation.MODE_OFF
    chat = sent.chat
    assert (chat.tool_choice, chat.tool_name) == (pb.ChatMessages.TOOL_CHOICE_REQUIRED, "weather")
    assert chat.single_call
    assert json.loads(chat.tools[0].parameters) == CITY
    assert json.loads(chat.template_options)["reasoning_effort"] == "low"


def test_an_answer_that_a_limit_cuts_short_is_incomplete(
    client: OpenAI, verifier: PartsVerifier
) -> None:
    verifier.reason, verifier.parts = pb.Finished.FINISH_REASON_LENGTH, [said("I l")]
    try:
        answer = ask(client)
        last = list(ask(client, stream=True))[-1]
    finally:
        verifier.reason, verifier.parts = pb.Finished.FINISH_REASON_STOP, FULL_ANSWER
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(client: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_a_stream_that_fails_says_so(client: OpenAI, verifier: PartsVerifier) -> None:
    verifier.reason = pb.Finished.FINISH_REASON_SHUTDOWN
    body = {"input": "hi", "stream": True}
    try:
        text = httpx.post(f"{client.base_url}responses", json=body).text
    finally:
        verifier.reason = pb.Finished.FINISH_REASON_STOP
    *_, error, failed = text.strip().split("\n\n")
    assert error.startswith("event: error\n") and "verifier_unavailable" in error
    assert failed.startswith("event: response.failed\n")
