"""Requests of /tokenize and /detokenize."""

from pydantic import model_validator

from lookahead.gateway.chat.schema import Message
from lookahead.gateway.schema import Part, Unsigned


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
