"""The form that an output must have, by any of the names that clients know."""

import json
from typing import Any

from lookahead.gateway.schema import Generation, ResponseFormat, StructuredOutputs
from protos import verifier_pb2 as pb

ANY_OBJECT = {"type": "object"}


def constraint(request: Generation) -> pb.Constraint | None:
    """Return the form; None where the output is free. A request has one form at most."""
    if request.structured_outputs is not None:
        return _structured(request.structured_outputs)
    if request.guided_json is not None:
        return _schema(request.guided_json)
    if request.guided_regex is not None:
        return pb.Constraint(regex=request.guided_regex)
    if request.guided_choice is not None:
        return pb.Constraint(choices=pb.Choices(texts=request.guided_choice))
    if request.guided_grammar is not None:
        return pb.Constraint(grammar=request.guided_grammar)
    return _of_format(request.response_format)


def constraint_field(request: Generation) -> str:
    """Return the name of the field that says the form."""
    return request.forms[0] if request.forms else "response_format"


def _structured(wanted: StructuredOutputs) -> pb.Constraint | None:
    if wanted.definition is not None:
        return _schema(wanted.definition)
    if wanted.regex is not None:
        return pb.Constraint(regex=wanted.regex)
    if wanted.choice is not None:
        return pb.Constraint(choices=pb.Choices(texts=wanted.choice))
    if wanted.grammar is not None:
        return pb.Constraint(grammar=wanted.grammar)
    return _schema(ANY_OBJECT) if wanted.json_object else None


def _of_format(wanted: ResponseFormat | None) -> pb.Constraint | None:
    if wanted is None or wanted.type == "text":
        return None
    return _schema(ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.definition)


def _schema(schema: dict[str, Any] | str) -> pb.Constraint:
    return pb.Constraint(json_schema=schema if isinstance(schema, str) else json.dumps(schema))
