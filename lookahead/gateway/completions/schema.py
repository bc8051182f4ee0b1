"""Requests of /v1/completions."""

from typing import Literal

from pydantic import field_validator

from lookahead.gateway.schema import Generation, Unsigned


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: list[str] | list[list[int]]
    max_tokens: Unsigned | None = 16  # OpenAI's default
    logprobs: Unsigned | None = None
    echo: bool = False
    prompt_logprobs: Unsigned | None = None
    suffix: Literal[""] = ""

    @field_validator("prompt", mode="before")
    @classmethod
    def _listed_prompts(cls, prompt: object) -> object:
        return listed_prompts(prompt)


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
