"""The requests that clients of OpenAI's API send, and what we add to them.

A field that is not listed is refused by its name; one listed as a literal is supported with that
value only. Most ranges are the verifier's to check: it knows the model.
"""

from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Unsigned = Annotated[int, Field(ge=0, lt=1 << 32)]  # what the contract can carry
# Keys of JSON objects are strings.
BiasKey = Annotated[int, Field(strict=False, ge=0, lt=1 << 32)]


class Part(BaseModel):
    """Any object of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Part):
    """Fields of a stream besides the text."""

    include_usage: bool = False


class JsonSchema(Part):
    """The form of a structured output."""

    name: str = ""
    description: str = ""
    # OpenAI's name for it, `schema`, is taken by pydantic.
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool = True


class ResponseFormat(Part):
    """text: anything; json_object: any JSON object; json_schema: what the schema allows."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is required with, and only with, the type json_schema")
        return self


class Prediction(Part):
    """A text expected in the output, for example the file being edited."""

    type: Literal["content"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join(cls, content: object) -> object:
        return joined_text(content)


class Lookahead(Part):
    """Controls drafting, which changes the speed and never the text. Names are the contract's."""

    mode: Literal["auto", "off", "chain", "tree"] | None = None
    max_nodes: Unsigned | None = None
    max_depth: Unsigned | None = None
    namespace: str | None = None
    learn: Literal["all", "output", "none"] | None = None
    exactness: object = None  # in NO_EFFECT
    draft_trees: bool = False


# Fields that are accepted and do nothing. An answer names those that its request has.
NO_EFFECT = ("lookahead.exactness",)


class Generation(Part):
    """The fields of both kinds of completion."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    best_of: Literal[1] = 1
    # OpenAI's default, where the contract's is 0.
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int = Field(0, ge=-1, lt=1 << 32)  # 0 and -1: all
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[BiasKey, float] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 64)
    max_tokens: Unsigned | None = None
    min_tokens: Unsigned | None = None
    stop: list[str] = Field(default_factory=list)
    stop_token_ids: list[Unsigned] = Field(default_factory=list)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    user: str | None = None
    cache_salt: str | None = None
    lookahead: Lookahead = Lookahead()

    @property
    def num_prompts(self) -> int:
        """How many inputs it has, each of which gets `n` choices."""
        return 1

    @property
    def ignored(self) -> list[str]:
        """Fields given that have no effect."""
        return [name for name in NO_EFFECT if attrgetter(name)(self) is not None]

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: object) -> object:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _check_stream_options(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        return self


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: list[str] | list[list[int]]
    max_tokens: Unsigned | None = 16  # OpenAI's default
    logprobs: Unsigned | None = None
    echo: Literal[False] = False
    suffix: Literal[""] = ""

    @property
    def num_prompts(self) -> int:
        """How many inputs it has, each of which gets `n` choices."""
        return len(self.prompt)

    @field_validator("prompt", mode="before")
    @classmethod
    def _listed_prompts(cls, prompt: object) -> object:
        return listed_prompts(prompt)


class Message(Part):
    """One message of a conversation."""

    role: str
    content: str

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, message: object) -> object:
        # An answer that is sent back brings the empty fields that its client gave it.
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if value is not None}

    @field_validator("content", mode="before")
    @classmethod
    def _join(cls, content: object) -> object:
        return joined_text(content)


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: Unsigned | None = None
    logprobs: bool = False
    top_logprobs: Unsigned | None = None
    store: Literal[False] = False

    @model_validator(mode="after")
    def _check_limits(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("set max_tokens or max_completion_tokens, not both")
        return self


class TokenizeRequest(Part):
    """POST /tokenize: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _check_input(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give a prompt or messages")
        return self


class DetokenizeRequest(Part):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Unsigned]
    skip_special_tokens: bool = False


def listed_prompts(prompt: object) -> object:
    """Return a list of texts or of lists of ids for any of the four forms that a prompt has."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ValueError("must be a text, a list of token ids, or a list of either")
    if all(isinstance(item, str) for item in prompt):
        return prompt
    rows = prompt if all(isinstance(item, list) for item in prompt) else [prompt]
    for row in rows:
        if not all(type(item) is int and 0 <= item < 1 << 32 for item in row):
            raise ValueError("must be a text, a list of token ids, or a list of either")
    return rows


def joined_text(content: object) -> object:
    """Return the text of a list of text parts, and anything else as it is."""
    if not isinstance(content, list):
        return content
    for part in content:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError("a list may only contain parts of type text")
    return "".join(part["text"] for part in content)
