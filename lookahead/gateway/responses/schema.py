"""Requests of /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from lookahead.gateway.schema import Lookahead, Part, Unsigned

DEFAULT_ITEM = "message"  # which clients may leave out


class InputText(Part):
    """A part of a message or of a tool's output."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


def _listed(content: object) -> object:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


InputContent = Annotated[list[InputText], BeforeValidator(_listed)]


class InputMessage(Part):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: str
    content: InputContent
    id: str = ""
    status: str = ""
    phase: str = ""


class FunctionCall(Part):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str = ""
    arguments: str = ""  # JSON
    id: str = ""
    status: str = ""


class FunctionCallOutput(Part):
    """What a call brought."""

    type: Literal["function_call_output"]
    call_id: str
    output: InputContent
    id: str = ""
    status: str = ""


class ReasoningItem(Part):
    """What was thought before an earlier answer."""

    type: Literal["reasoning"]
    id: str = ""
    summary: list[InputText] = Field(default_factory=list)
    content: list[InputText] = Field(default_factory=list)
    encrypted_content: str = ""
    status: str = ""


def _kind(item: object) -> object:
    given = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return f"[{given or DEFAULT_ITEM}]"  # brackets keep tags out of the paths of errors


Item = Annotated[
    Annotated[InputMessage, Tag("[message]")]
    | Annotated[FunctionCall, Tag("[function_call]")]
    | Annotated[FunctionCallOutput, Tag("[function_call_output]")]
    | Annotated[ReasoningItem, Tag("[reasoning]")],
    Discriminator(_kind),
]


class FunctionTool(Part):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool = True  # arguments always satisfy the schema


class NamespaceTool(Part):
    """Functions that share a namespace."""

    type: Literal["namespace"]
    name: str
    description: str = ""
    tools: list[FunctionTool]


def _tool_kind(tool: object) -> object:
    given = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "[namespace]" if given == "namespace" else "[function]"


Tool = Annotated[
    Annotated[FunctionTool, Tag("[function]")] | Annotated[NamespaceTool, Tag("[namespace]")],
    Discriminator(_tool_kind),
]


class NamedTool(Part):
    """The tool that must be called."""

    type: Literal["function"]
    name: str


class TextForm(Part):
    """The form of what is said."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    description: str = ""
    # OpenAI's name for it, `schema`, is taken by pydantic.
    definition: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool = True

    @model_validator(mode="after")
    def _check_schema(self) -> "TextForm":
        if (self.type == "json_schema") != (self.definition is not None):
            raise ValueError("schema is required with, and only with, the type json_schema")
        return self


class TextOptions(Part):
    """How the text is written."""

    format: TextForm = Field(default_factory=lambda: TextForm.model_validate({}))


class ReasoningOptions(Part):
    """How much is thought."""

    effort: str | None = None


def _one_message(given: object) -> object:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class ResponsesRequest(Part):
    """POST /v1/responses."""

    model: str | None = None
    input: Annotated[list[Item], BeforeValidator(_one_message), Field(min_length=1)]
    instructions: str = ""
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = ReasoningOptions()
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    text: TextOptions = TextOptions()
    max_output_tokens: Unsigned | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Unsigned | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 64)
    stream: bool = False
    store: Literal[False] = False
    background: Literal[False] = False
    user: str | None = None
    cache_salt: str | None = None
    lookahead: Lookahead = Lookahead()
