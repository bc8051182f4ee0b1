"""smolagents: the agent that calls tools and the one that writes code."""

import json

from checks import BASE_URL, KEY, MODEL, check, run
from smolagents import ActionStep, CodeAgent, OpenAIModel, ToolCallingAgent, tool

MODEL_OF_AGENTS = OpenAIModel(
    model_id=MODEL,
    api_base=BASE_URL,
    api_key=KEY,
    max_tokens=96,
    temperature=0,
    parallel_tool_calls=False,
)


@tool
def weather(city: str) -> str:
    """Tells the weather in a city.

    Args:
        city: The city.
    """
    return f"It is sunny in {city}, 21 degrees."


def steps_of(agent: object) -> list[ActionStep]:
    return [step for step in agent.memory.steps if isinstance(step, ActionStep)]


@check("ToolCallingAgent")
def tool_calling_agent() -> None:
    agent = ToolCallingAgent(tools=[weather], model=MODEL_OF_AGENTS, max_steps=2, verbosity_level=0)
    answer = agent.run("What is the weather in Rome?")
    first = steps_of(agent)[0]
    assert first.tool_calls and first.tool_calls[0].name in ("weather", "final_answer")
    assert isinstance(first.tool_calls[0].arguments, dict)
    assert first.token_usage.output_tokens > 0
    assert answer is not None


@check("CodeAgent, streamed")
def code_agent() -> None:
    agent = CodeAgent(
        tools=[weather],
        model=MODEL_OF_AGENTS,
        max_steps=1,
        verbosity_level=0,
        stream_outputs=True,
    )
    answer = agent.run("What is the weather in Rome?")
    assert steps_of(agent)[0].model_output
    assert steps_of(agent)[0].token_usage.output_tokens > 0
    assert answer


@check("CodeAgent, structured")
def structured_code_agent() -> None:
    agent = CodeAgent(
        tools=[weather],
        model=MODEL_OF_AGENTS,
        max_steps=1,
        verbosity_level=0,
        use_structured_outputs_internally=True,
    )
    agent.run("What is the weather in Rome?")
    assert set(json.loads(steps_of(agent)[0].model_output)) == {"thought", "code"}


run()
