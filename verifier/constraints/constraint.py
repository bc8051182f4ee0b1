"""A form that the output must have: a JSON schema, a regular expression, texts or a grammar."""

import enum
from dataclasses import dataclass


class ConstraintError(ValueError):
    """A constraint that cannot be followed; says why."""


class Kind(enum.Enum):
    """What the texts of a constraint are; the value is the field of the contract that sets it."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICES = "choices"
    GRAMMAR = "grammar"
    ANSWER = "chat"  # rules of a grammar, made by ourselves, whose rule `body` is the output


@dataclass(frozen=True, slots=True)
class Constraint:
    """One schema, expression or grammar, or the texts to choose from."""

    kind: Kind
    texts: tuple[str, ...]
