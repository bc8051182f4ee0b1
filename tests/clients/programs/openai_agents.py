"""OpenAI's agents, over both of OpenAI's APIs."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import BASE_URL, KEY, MODEL, check, run
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

set_tracing_disabled(True)
CALLED: list[str] = []


class Point(BaseModel):
    x: int = Field(ge=0, le=9)
    y: int = Field(ge=0, le=9)


@function_tool
def weather(city: str) -> str:
    """Tells the weather in a city."""
    CALLED.append(city)
    return "It is sunny, 21 degrees."


def models() -> list:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY)
    return [kind(MODEL, client) for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel)]


async def _calls_a_tool(model: object) -> None:
    CALLED.clear()
    agent = Agent(
        name="guide",
        instructions="Answer with the tool.",
        tools=[weather],
        model=model,
        # The agent itself lifts `required` after the first call.
        model_settings=ModelSettings(tool_choice="required", max_tokens=64, temperature=0),
    )
    result = await Runner.run(agent, "What is the weather in Rome?", max_turns=4)
    assert CALLED
    assert result.final_output
    assert result.context_wrapper.usage.requests >= 2
    assert result.context_wrapper.usage.output_tokens > 0


async def _streams(model: object) -> None:
    settings = ModelSettings(max_tokens=24, temperature=0)
    agent = Agent(name="guide", model=model, model_settings=settings)
    result = Runner.run_streamed(agent, "What is the capital of France?")
    pieces = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "Paris" in result.final_output
    assert "".join(pieces) == result.final_output


async def _answers_in_a_form(model: object) -> None:
    settings = ModelSettings(max_tokens=64, temperature=0)
    agent = Agent(name="pointer", model=model, output_type=Point, model_settings=settings)
    result = await Runner.run(agent, "A point with x 3 and y 4.")
    assert isinstance(result.final_output, Point)


@check("chat: tool call and answer")
async def chat_tools() -> None:
    await _calls_a_tool(models()[0])


@check("chat: streaming")
async def chat_streaming() -> None:
    await _streams(models()[0])


@check("chat: output type")
async def chat_form() -> None:
    await _answers_in_a_form(models()[0])


@check("Responses: tool call and answer")
async def responses_tools() -> None:
    await _calls_a_tool(models()[1])


@check("Responses: streaming")
async def responses_streaming() -> None:
    await _streams(models()[1])


@check("Responses: output type")
async def responses_form() -> None:
    await _answers_in_a_form(models()[1])


run()
