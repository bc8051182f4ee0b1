"""LangChain's chat model, and an agent of LangChain and LangGraph."""

from checks import BASE_URL, KEY, MODEL, check, run
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel


class Point(BaseModel):
    """A point."""

    x: int
    y: int


@tool
def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


def chat(**settings: object) -> ChatOpenAI:
    limits = {"max_tokens": 64, "temperature": 0} | settings
    return ChatOpenAI(base_url=BASE_URL, api_key=KEY, model=MODEL, **limits)


@check("invoke")
def invoke() -> None:
    answer = chat(max_tokens=24).invoke("What is the capital of France?")
    assert "Paris" in answer.content
    assert 0 < answer.usage_metadata["output_tokens"] <= 24


@check("streaming")
def streaming() -> None:
    question = "What is the capital of France?"
    pieces = list(chat(max_tokens=24, stream_usage=True).stream(question))
    whole = sum(pieces[1:], start=pieces[0])
    assert whole.content == chat(max_tokens=24).invoke(question).content
    assert whole.usage_metadata["output_tokens"] > 0


@check("batch")
def batch() -> None:
    answers = chat(max_tokens=8).batch(["Name a colour.", "Name a city.", "Name a river."])
    assert all(answer.content for answer in answers)


@check("structured output")
def structured() -> None:
    for method in ("json_schema", "function_calling"):
        found = chat().with_structured_output(Point, method=method).invoke("x is 3 and y is 4.")
        assert isinstance(found, Point), method


@check("Responses")
def responses() -> None:
    answer = chat(max_tokens=24, use_responses_api=True).invoke("What is the capital of France?")
    assert "Paris" in answer.text


@wrap_model_call
def call_first(request, handler):
    """Have the first turn call a tool, which a small model does not do by itself."""
    has_result = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tool_choice="none" if has_result else "required"))


@check("LangChain's agent: tool call and answer")
def agent() -> None:
    made = create_agent(chat(), [weather], middleware=[call_first])
    messages = made.invoke({"messages": [("user", "What is the weather in Rome?")]})["messages"]
    _called_and_answered(messages)


@check("LangGraph's graph: tool call and answer")
def graph() -> None:
    def call(state: MessagesState) -> dict:
        bound = chat().bind_tools([weather], tool_choice="required", parallel_tool_calls=False)
        return {"messages": [bound.invoke(state["messages"])]}

    def answer(state: MessagesState) -> dict:
        bound = chat().bind_tools([weather], tool_choice="none")
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("call", call)
    builder.add_node("tools", ToolNode([weather]))
    builder.add_node("answer", answer)
    for edge in ((START, "call"), ("call", "tools"), ("tools", "answer"), ("answer", END)):
        builder.add_edge(*edge)
    state = builder.compile().invoke({"messages": [("user", "What is the weather in Rome?")]})
    _called_and_answered(state["messages"])


def _called_and_answered(messages: list) -> None:
    calls = [
        call
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    ]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert calls and {call["name"] for call in calls} == {"weather"}
    assert "sunny" in results[0].content
    assert isinstance(messages[-1], AIMessage) and messages[-1].content


run()
