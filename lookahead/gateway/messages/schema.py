"""Requests of /v1/messages and /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from lookahead.gateway.schema import Content, Lookahead, Part, TextPart, Unsigned


class ThinkingBlock(Part):
    """What was thought before an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(Part):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


class ToolResultBlock(Part):
    """What a call brought."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Content = Field(default_factory=list)
    is_error: bool = False


def _kind(block: object) -> str:
    given = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return f"[{given}]"  # brackets keep tags out of the paths of errors


Block = Annotated[
    Annotated[TextPart, Tag("[text]")]
    | Annotated[ThinkingBlock, Tag("[thinking]")]
    | Annotated[ToolUseBlock, Tag("[tool_use]")]
    | Annotated[ToolResultBlock, Tag("[tool_result]")],
    Discriminator(_kind),
]


def _listed(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class InputMessage(Part):
    """What the user or the assistant said, the results of calls among it."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BeforeValidator(_listed)]


class MessageTool(Part):
    """A function that the model may call."""

    type: Literal["custom"] = "custom"
    name: str
    description: str = ""
    input_schema: dict[str, Any]
    strict: bool = True  # arguments always satisfy the schema


class MessageToolChoice(Part):
    """Whether a tool is called: any of them, this one, none, or as the model likes."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class Thinking(Part):
    """Whether the model thinks. Its length is limited by max_tokens alone."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputForm(Part):
    """The form of what is said."""

    type: Literal["json_schema"]
    # The API's name for it, `schema`, is taken by pydantic.
    definition: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    """How much is thought, and the form of what is said."""

    effort: str | None = None
    format: OutputForm | None = None


class CountRequest(Part):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: Content = Field(default_factory=list)
    tools: list[MessageTool] = Field(default_factory=list)
    tool_choice: MessageToolChoice = MessageToolChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Unsigned
    temperature: float | None = None
    top_p: float | None = None
    top_k: Unsigned | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 64)
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    cache_salt: str | None = None
    lookahead: Lookahead = Lookahead()
