"""Pydantic AI, over three APIs."""

from checks import BASE_URL, KEY, MODEL, check, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What is the capital of France?"
PROVIDER = OpenAIProvider(base_url=BASE_URL, api_key=KEY)
CHAT = OpenAIChatModel(MODEL, provider=PROVIDER)
RESPONSES = OpenAIResponsesModel(MODEL, provider=PROVIDER)
BRIEF = {"max_tokens": 24, "temperature": 0}
LONGER = {"max_tokens": 96, "temperature": 0}


class Point(BaseModel):
    """A point."""

    x: int
    y: int


@check("chat")
async def chat() -> None:
    result = await Agent(CHAT, model_settings=BRIEF).run(QUESTION)
    assert "Paris" in result.output
    assert 0 < result.usage.output_tokens <= 24


@check("streaming")
async def streaming() -> None:
    async with Agent(CHAT, model_settings=BRIEF).run_stream(QUESTION) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True)]
        whole = await stream.get_output()
    assert "Paris" in whole
    assert "".join(pieces) == whole


@check("output by tool")
async def output_by_tool() -> None:
    agent = Agent(CHAT, output_type=Point, model_settings=LONGER)
    result = await agent.run("A point with x 3 and y 4.")
    assert isinstance(result.output, Point)


@check("output by schema")
async def output_by_schema() -> None:
    agent = Agent(CHAT, output_type=NativeOutput(Point), model_settings=LONGER)
    result = await agent.run("A point with x 3 and y 4.")
    assert isinstance(result.output, Point)


async def after_the_first_step(context, definitions):
    """Leave a small model no other tool than the function's in the first step."""
    return definitions if context.run_step > 1 else []


async def in_the_first_step(context, definitions):
    return definitions if context.run_step == 1 else []


@check("tools, there and back")
async def tools() -> None:
    agent = Agent(
        CHAT,
        output_type=Point,
        model_settings=LONGER,
        capabilities=[PrepareTools(in_the_first_step), PrepareOutputTools(after_the_first_step)],
    )
    asked: list[str] = []

    @agent.tool_plain
    def position(name: str) -> str:
        """Tells where something is."""
        asked.append(name)
        return "x is 3 and y is 4"

    result = await agent.run("Where is the lighthouse?")
    parts = [part for message in result.all_messages() for part in message.parts]
    assert asked
    assert any(isinstance(part, ToolReturnPart) and "x is 3" in part.content for part in parts)
    assert isinstance(result.output, Point)


@check("Responses")
async def responses() -> None:
    result = await Agent(RESPONSES, model_settings=BRIEF).run(QUESTION)
    assert "Paris" in result.output


run()
