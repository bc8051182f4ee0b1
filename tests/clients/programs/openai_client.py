"""OpenAI's own client."""

import json

from checks import BASE_URL, KEY, MODEL, check, run
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=BASE_URL, api_key=KEY)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class Point(BaseModel):
    x: int
    y: int
    colour: bool


@check("chat")
def chat() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=24, temperature=0
    )
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check("async")
async def asynchronous() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY) as asynchronous_client:
        answer = await asynchronous_client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=24, temperature=0
        )
    assert "Paris" in answer.choices[0].message.content


@check("streaming")
def streaming() -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=24, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@check("completions")
def completions() -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0, logprobs=2
    )
    assert "four" in answer.choices[0].text
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text
    assert all(value <= 0 for value in answer.choices[0].logprobs.token_logprobs)


@check("parsed output")
def parsed() -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "A point with x 3 and y 4 as JSON."}],
        response_format=Point,
        max_tokens=64,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Point)


@check("tools, there and back")
def tools() -> None:
    messages = [{"role": "user", "content": "What is the weather in Rome, in celsius?"}]
    first = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=64,
        temperature=0,
    )
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "fahrenheit")
    messages.append(first.choices[0].message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "It is sunny, 21."})
    second = client.chat.completions.create(
        model=MODEL, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=24
    )
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


@check("streamed tool call")
def streamed_call() -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_tokens=64,
        temperature=0,
    ) as stream:
        pieces = [
            event.arguments_delta for event in stream if event.type.endswith("arguments.delta")
        ]
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert "".join(pieces) == call.function.arguments
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}


@check("Responses, streamed")
def responses() -> None:
    with client.responses.stream(
        model=MODEL, input="What is the capital of France?", max_output_tokens=24, temperature=0
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "Paris" in final.output_text
    assert "".join(pieces) == final.output_text
    assert final.usage.output_tokens <= 24


@check("Responses, parsed output")
def responses_parsed() -> None:
    answer = client.responses.parse(
        model=MODEL,
        input="A point with x 3 and y 4 as JSON.",
        text_format=Point,
        max_output_tokens=64,
        temperature=0,
    )
    assert isinstance(answer.output_parsed, Point)


@check("models")
def models() -> None:
    assert MODEL in [model.id for model in client.models.list()]


@check("errors")
def errors() -> None:
    try:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=-1)
    except BadRequestError as error:
        assert error.param == "temperature", error
    else:
        raise AssertionError("a wrong temperature was accepted")


run()
