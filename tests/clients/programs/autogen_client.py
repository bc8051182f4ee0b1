"""AutoGen's model client, and its assistants."""

import json

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from checks import BASE_URL, KEY, MODEL, check, run
from pydantic import BaseModel

ABILITIES = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


class Point(BaseModel):
    """A point."""

    x: int
    y: int


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


def client() -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model=MODEL,
        base_url=BASE_URL,
        api_key=KEY,
        model_info=ABILITIES,
        max_tokens=64,
        temperature=0,
    )


@check("assistant")
async def assistant() -> None:
    result = await AssistantAgent("guide", client()).run(task="What is the capital of France?")
    assert "Paris" in result.messages[-1].content
    assert result.messages[-1].models_usage.completion_tokens > 0


@check("team of assistants")
async def team() -> None:
    members = [AssistantAgent(name, client()) for name in ("first", "second")]
    chat = RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(3))
    result = await chat.run(task="Talk about the sea.")
    assert [message.source for message in result.messages] == ["user", "first", "second"]
    assert all(message.content for message in result.messages)


@check("streaming")
async def streaming() -> None:
    question = [UserMessage(content="What is the capital of France?", source="user")]
    *pieces, final = [piece async for piece in client().create_stream(question)]
    assert "".join(pieces) == final.content
    assert "Paris" in final.content


@check("structured output")
async def structured() -> None:
    agent = AssistantAgent("pointer", client(), output_content_type=Point)
    result = await agent.run(task="A point with x 3 and y 4.")
    assert isinstance(result.messages[-1].content, Point)


@check("tools, there and back")
async def tools() -> None:
    tool = FunctionTool(weather, description="Tells the weather in a city.")
    messages = [UserMessage(content="What is the weather in Rome?", source="user")]
    first = await client().create(messages, tools=[tool], tool_choice="required")
    assert first.finish_reason == "function_calls"
    results = [
        FunctionExecutionResult(
            call_id=call.id,
            name=call.name,
            is_error=False,
            content=await tool.run_json(json.loads(call.arguments), CancellationToken()),
        )
        for call in first.content
    ]
    assert results and "sunny" in results[0].content
    messages += [
        AssistantMessage(content=first.content, source="guide"),
        FunctionExecutionResultMessage(content=results),
    ]
    second = await client().create(messages, tools=[tool], tool_choice="none")
    assert isinstance(second.content, str) and second.content


run()
