"""Anthropic's own client."""

import json

from anthropic import Anthropic, AsyncAnthropic, BadRequestError
from checks import KEY, MODEL, URL, check, run

client = Anthropic(base_url=URL, api_key=KEY)
# Anthropic's newest models take no temperature, so its client has no such parameter.
GREEDY = {"extra_body": {"temperature": 0}}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SYSTEM = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
WEATHER = {
    "name": "weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


@check("messages")
def messages() -> None:
    answer = client.messages.create(model=MODEL, messages=QUESTION, system=SYSTEM, max_tokens=24)
    (block,) = answer.content
    assert block.type == "text" and block.text
    assert answer.role == "assistant"
    assert 0 < answer.usage.output_tokens <= 24


@check("async")
async def asynchronous() -> None:
    async with AsyncAnthropic(base_url=URL, api_key=KEY) as asynchronous_client:
        answer = await asynchronous_client.messages.create(
            model=MODEL, messages=QUESTION, max_tokens=24, **GREEDY
        )
    assert "Paris" in answer.content[0].text


@check("streaming")
def streaming() -> None:
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=24, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "Paris" in final.content[0].text
    assert "".join(pieces) == final.content[0].text
    assert len(pieces) > 1
    assert 0 < final.usage.output_tokens <= 24


@check("stop sequence")
def stop_sequence() -> None:
    answer = client.messages.create(
        model=MODEL, messages=QUESTION, max_tokens=24, **GREEDY, stop_sequences=["Paris"]
    )
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == "Paris"


@check("tools, there and back")
def tools() -> None:
    conversation = [{"role": "user", "content": "What is the weather in Rome?"}]
    first = client.messages.create(
        model=MODEL,
        messages=conversation,
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_tokens=64,
        **GREEDY,
    )
    assert first.stop_reason == "tool_use"
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert call.name == "weather" and call.input["days"] in (1, 7)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny, 21."}
    conversation += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(
        model=MODEL,
        messages=conversation,
        tools=[WEATHER],
        tool_choice={"type": "none"},
        max_tokens=24,
    )
    assert second.content[0].text


@check("streamed tool call")
def streamed_call() -> None:
    with client.messages.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        max_tokens=64,
        **GREEDY,
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert json.loads("".join(pieces)) == call.input
    assert set(call.input) == {"city", "days"}


@check("counted tokens")
def count_tokens() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION)
    answer = client.messages.create(model=MODEL, messages=QUESTION, max_tokens=1)
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@check("errors")
def errors() -> None:
    try:
        client.messages.create(
            model=MODEL, messages=QUESTION, max_tokens=8, extra_body={"temperature": -1}
        )
    except BadRequestError as error:
        assert "temperature" in error.message, error
    else:
        raise AssertionError("a wrong temperature was accepted")


run()
