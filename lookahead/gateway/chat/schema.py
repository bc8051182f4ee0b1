"""Requests of /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lookahead.gateway.schema import Content, Generation, Part, Unsigned


class CalledFunction(Part):
    """What a call calls."""

    name: str
    arguments: str = ""  # JSON


class MessageCall(Part):
    """A call that an answer made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of those who send back what a stream brought


class Message(Part):
    """One message of a conversation."""

    role: str
    content: Content
    tool_calls: list[MessageCall] = Field(default_factory=list)
    tool_call_id: str = ""
    reasoning_content: str = ""  # of an assistant's
    reasoning: str = ""  # another name for it

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, found: object) -> object:
        """A message that only makes calls says nothing."""
        if isinstance(found, dict) and found.get("tool_calls") and found.get("content") is None:
            return {**found, "content": ""}
        return found


class Function(Part):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool = True  # arguments always satisfy the schema


class Tool(Part):
    """A tool of the one kind that there is."""

    type: Literal["function"]
    function: Function


class NamedFunction(Part):
    """The name of a function."""

    name: str


class NamedTool(Part):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_completion_tokens: Unsigned | None = None
    logprobs: bool = False
    top_logprobs: Unsigned | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("set max_tokens or max_completion_tokens, not both")
        if self.continue_final_message and "add_generation_prompt" in self.model_fields_set:
            if self.add_generation_prompt:
                raise ValueError("continue_final_message needs add_generation_prompt false")
        elif not self.add_generation_prompt and not self.continue_final_message:
            raise ValueError("add_generation_prompt false needs continue_final_message")
        return self

    @property
    def output_limit(self) -> int | None:
        """The most tokens of a choice, by whichever name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
