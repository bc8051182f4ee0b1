"""How families of models mark what they think before they answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The marks around what a model thinks."""

    name: str
    open: str
    close: str


KNOWN = (
    Reasoning("think", "<think>", "</think>"),
    Reasoning("harmony", "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    Reasoning("gemma", "<|channel>thought\n", "<channel|>"),
    Reasoning("mistral", "[THINK]", "[/THINK]"),
)
BY_NAME = {reasoning.name: reasoning for reasoning in KNOWN}

# What a template of the family holds.
SIGNS = (
    ("harmony", "<|channel|>"),
    ("gemma", "<|channel>"),
    ("mistral", "[THINK]"),
    ("think", "<think>"),
)


def recognised(template: str) -> Reasoning | None:
    """Return the marks that a template shows; None if its model does not think aloud."""
    return next((BY_NAME[name] for name, sign in SIGNS if sign in template), None)
