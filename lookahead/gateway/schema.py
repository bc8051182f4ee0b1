"""What requests of OpenAI's APIs have in common, and what we add to them.

A field that is not listed is refused by its name; one listed as a literal is supported with that
value only. Most ranges are the verifier's to check: it knows the model.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Unsigned = Annotated[int, Field(ge=0, lt=1 << 32)]  # what the contract can carry
# Keys of JSON objects are strings.
BiasKey = Annotated[int, Field(strict=False, ge=0, lt=1 << 32)]


class Part(BaseModel):
    """Any object of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, found: object) -> object:
        """Clients send null for what they leave out. Schemas are no parts: their nulls count."""
        if not isinstance(found, dict):
            return found
        return {name: value for name, value in found.items() if value is not None}


class TextPart(Part):
    """A part of a text."""

    type: Literal["text"]
    text: str


def _listed_content(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# A text, or a list of its parts.
Content = Annotated[list[TextPart], BeforeValidator(_listed_content)]


def text_of(content: list[TextPart]) -> str:
    """Return what the parts say together."""
    return "".join(part.text for part in content)


class StreamOptions(Part):
    """Fields of a stream besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False  # in each event, as vLLM has it


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


class StructuredOutputs(Part):
    """The form of an output, as vLLM has it: one of these."""

    # vLLM's name for it, `json`, is taken by pydantic.
    definition: dict[str, Any] | str | None = Field(None, alias="json")  # a JSON schema
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "StructuredOutputs":
        if len(self.model_fields_set) != 1:
            raise ValueError("set exactly one of json, regex, choice, grammar and json_object")
        return self


class Prediction(Part):
    """A text expected in the output, for example the file being edited."""

    type: Literal["content"]
    content: Content


class Lookahead(Part):
    """Controls drafting, which changes the speed and never the text. Names are the contract's."""

    mode: Literal["auto", "off", "chain", "tree"] | None = None
    max_nodes: Unsigned | None = None
    max_depth: Unsigned | None = None
    namespace: str | None = None
    learn: Literal["all", "output", "none"] | None = None
    draft_trees: bool = False


class Generation(Part):
    """The fields of both kinds of completion."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    best_of: Literal[1] = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=-1, lt=1 << 32)  # 0 and -1: all
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
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    prediction: Prediction | None = None
    user: str | None = None
    cache_salt: str | None = None
    lookahead: Lookahead = Lookahead()

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: object) -> object:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _check_stream_options(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        return self

    @model_validator(mode="after")
    def _check_one_form(self) -> "Generation":
        if len(self.forms) > 1:
            raise ValueError(f"set one of {' and '.join(self.forms)}, not both")
        return self

    @property
    def forms(self) -> list[str]:
        """The fields that say what form the output has."""
        guided = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
        names = ("structured_outputs", *guided)
        found = [name for name in names if getattr(self, name) is not None]
        has_form = self.response_format is not None and self.response_format.type != "text"
        return (["response_format"] if has_form else []) + found
