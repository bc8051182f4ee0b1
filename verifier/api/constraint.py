"""A form that the output must have, from the wire: checked as far as that needs no compiling."""

import json

from protos import verifier_pb2 as pb
from verifier.api.validation import Violations, check_len
from verifier.constraints.constraint import Constraint, Kind

MAX_SCHEMA_BYTES = 1 << 16
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_BYTES = 1 << 13
MAX_GRAMMAR_BYTES = 1 << 16
MAX_CHOICES = 256
MAX_CHOICE_BYTES = 1 << 10


def is_constrained(message: pb.GenerateRequest) -> bool:
    """Whether the output must have a form: that of a constraint, or of calls of tools."""
    return message.HasField("constraint") or bool(message.chat.tools)


def check_constraint(message: pb.GenerateRequest, violations: Violations) -> None:
    """Check all that can be said without compiling; a request without constraint is right."""
    violations.require(
        not (is_constrained(message) and message.stopping.ignore_eos),
        "stopping.ignore_eos",
        "cannot be set with a constraint or tools, which themselves end the output",
    )
    if not message.HasField("constraint"):
        return
    constraint = message.constraint
    kind = constraint.WhichOneof("kind")
    if kind == "json_schema":
        check_schema(constraint.json_schema, "constraint.json_schema", violations)
    elif kind == "regex":
        violations.require(bool(constraint.regex), "constraint.regex", "must not be empty")
        check_len(constraint.regex, "constraint.regex", MAX_REGEX_BYTES, violations)
    elif kind == "grammar":
        violations.require(bool(constraint.grammar), "constraint.grammar", "must not be empty")
        check_len(constraint.grammar, "constraint.grammar", MAX_GRAMMAR_BYTES, violations)
    elif kind == "choices":
        _check_choices(constraint.choices, violations)
    else:
        problem = "is empty: set json_schema, regex, choices or grammar"
        violations.require(False, "constraint", problem)


def parse_constraint(message: pb.Constraint) -> Constraint:
    """Return a checked `message`."""
    kind = Kind(message.WhichOneof("kind"))
    if kind is Kind.JSON_SCHEMA:
        return Constraint(kind, (message.json_schema,))
    if kind is Kind.REGEX:
        return Constraint(kind, (message.regex,))
    if kind is Kind.GRAMMAR:
        return Constraint(kind, (message.grammar,))
    return Constraint(kind, tuple(dict.fromkeys(message.choices.texts)))


def check_schema(text: str, field: str, violations: Violations) -> None:
    """Check a schema's length, form and depth."""
    if not check_len(text, field, MAX_SCHEMA_BYTES, violations):
        return
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        violations.require(False, field, f"must be JSON: {error}", text)
        return
    except RecursionError:
        schema = None
    is_shallow = schema is not None and _depth_is_within(schema, MAX_SCHEMA_DEPTH)
    violations.require(is_shallow, field, f"must be nested at most {MAX_SCHEMA_DEPTH} deep")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _depth_is_within(value: object, limit: int) -> bool:
    """Whether arrays and objects are nested at most so deep; recursion ends at the limit."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return limit > 0 and all(_depth_is_within(item, limit - 1) for item in value)


def _check_choices(choices: pb.Choices, violations: Violations) -> None:
    field, count = "constraint.choices.texts", len(choices.texts)
    if not violations.require(
        0 < count <= MAX_CHOICES, field, f"must be 1 to {MAX_CHOICES} texts", count
    ):
        return
    for i, text in enumerate(choices.texts):
        violations.require(bool(text), f"{field}[{i}]", "must not be empty")
        check_len(text, f"{field}[{i}]", MAX_CHOICE_BYTES, violations)
