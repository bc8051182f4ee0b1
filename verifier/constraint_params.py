"""The constraint of a request from the wire, checked as far as goes without compiling it."""

import json

from protos import verifier_pb2 as pb
from verifier.constraint import Constraint, Kind
from verifier.inputs import check_len
from verifier.violations import Violations

MAX_SCHEMA_BYTES = 1 << 16
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_BYTES = 1 << 13
MAX_CHOICES = 256
MAX_CHOICE_BYTES = 1 << 10


def check_constraint(message: pb.GenerateRequest, violations: Violations) -> None:
    """Check all that can be said without compiling; a request without constraint is right."""
    if not message.HasField("constraint"):
        return
    constraint = message.constraint
    kind = constraint.WhichOneof("kind")
    if kind == "json_schema":
        _check_schema(constraint.json_schema, violations)
    elif kind == "regex":
        violations.require(bool(constraint.regex), "constraint.regex", "must not be empty")
        check_len(constraint.regex, "constraint.regex", MAX_REGEX_BYTES, violations)
    elif kind == "choices":
        _check_choices(constraint.choices, violations)
    else:
        violations.require(False, "constraint", "is empty: set json_schema, regex or choices")
    violations.require(
        not message.stopping.ignore_eos,
        "stopping.ignore_eos",
        "cannot be set with a constraint, which says where the output ends",
    )


def parse_constraint(message: pb.Constraint) -> Constraint:
    """Return a checked `message`."""
    kind = Kind(message.WhichOneof("kind"))
    if kind is Kind.JSON_SCHEMA:
        return Constraint(kind, (message.json_schema,))
    if kind is Kind.REGEX:
        return Constraint(kind, (message.regex,))
    return Constraint(kind, tuple(dict.fromkeys(message.choices.texts)))


def _check_schema(text: str, violations: Violations) -> None:
    field = "constraint.json_schema"
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
    raise ValueError(f"{name} is no JSON value")


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
