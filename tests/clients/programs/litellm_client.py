"""LiteLLM, which many agents speak through."""

import json

import litellm
from checks import BASE_URL, KEY, MODEL, check, run
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SERVER = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": KEY, "temperature": 0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Point(BaseModel):
    x: int
    y: int


@check("chat")
def chat() -> None:
    answer = litellm.completion(messages=QUESTION, max_tokens=24, **SERVER)
    assert "Paris" in answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= 24


@check("async streaming")
async def streaming() -> None:
    whole = await litellm.acompletion(messages=QUESTION, max_tokens=24, **SERVER)
    stream = await litellm.acompletion(messages=QUESTION, max_tokens=24, stream=True, **SERVER)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


@check("fields of agents")
def agent_fields() -> None:
    answer = litellm.completion(
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "What is the capital of France?",
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            }
        ],
        max_tokens=24,
        metadata={"trace_version": "1", "tags": ["agent"], "session_id": "one"},
        extra_body={"litellm_session_id": "one", "metadata": {"tags": ["agent"]}},
        **SERVER,
    )
    assert "Paris" in answer.choices[0].message.content


@check("structured output")
def structured() -> None:
    answer = litellm.completion(
        messages=[{"role": "user", "content": "A point with x 3 and y 4 as JSON."}],
        response_format=Point,
        max_tokens=64,
        **SERVER,
    )
    Point.model_validate_json(answer.choices[0].message.content)


@check("tools, there and back")
def tools() -> None:
    messages = [{"role": "user", "content": "What is the weather in Rome?"}]
    first = litellm.completion(
        messages=messages, tools=[WEATHER], tool_choice="required", max_tokens=64, **SERVER
    )
    call = first.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    messages.append(first.choices[0].message)
    for made in first.choices[0].message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": made.id, "content": "It is sunny."})
    second = litellm.completion(
        messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=24, **SERVER
    )
    assert second.choices[0].message.content


@check("text completion")
def text() -> None:
    answer = litellm.text_completion(
        **SERVER | {"model": f"text-completion-openai/{MODEL}"},
        prompt="One, two, three,",
        max_tokens=8,
    )
    assert "four" in answer.choices[0].text


run()
