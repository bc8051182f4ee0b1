"""LlamaIndex's model for servers like OpenAI's, and its agent."""

from checks import BASE_URL, KEY, MODEL, check, run
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

QUESTION = "What is the capital of France?"


class Point(BaseModel):
    """A point."""

    x: int
    y: int


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


def model(**settings: object) -> OpenAILike:
    given = {"is_chat_model": True, "max_tokens": 24, "temperature": 0} | settings
    return OpenAILike(model=MODEL, api_base=BASE_URL, api_key=KEY, context_window=4096, **given)


@check("chat")
def chat() -> None:
    answer = model().chat([ChatMessage(role="user", content=QUESTION)])
    assert "Paris" in answer.message.content


@check("streaming")
def streaming() -> None:
    pieces = list(model().stream_chat([ChatMessage(role="user", content=QUESTION)]))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].message.content
    assert "Paris" in pieces[-1].message.content


@check("completion")
def completion() -> None:
    assert "four" in model(is_chat_model=False).complete("One, two, three,").text


@check("structured output")
def structured() -> None:
    llm = model(should_use_structured_outputs=True, max_tokens=64)
    answer = llm.as_structured_llm(Point).chat(
        [ChatMessage(role="user", content="A point with x 3 and y 4.")]
    )
    assert isinstance(answer.raw, Point)


@check("agent: tool call and answer")
async def agent() -> None:
    made = FunctionAgent(
        tools=[weather],
        llm=model(is_function_calling_model=True, max_tokens=64),
        initial_tool_choice="weather",
        allow_parallel_tool_calls=False,
    )
    handler = made.run("What is the weather in Rome?", max_iterations=4)
    results = [
        event async for event in handler.stream_events() if isinstance(event, ToolCallResult)
    ]
    answer = await handler
    assert results and results[0].tool_name == "weather"
    assert "sunny" in str(results[0].tool_output)
    assert str(answer)


run()
