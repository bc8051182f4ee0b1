"""Turns a JSON object into one of our requests; the first wrong field is named."""

from typing import Any, TypeVar

from pydantic import ValidationError

from lookahead.gateway.errors import ApiError, invalid
from lookahead.gateway.schema import Part

Kind = TypeVar("Kind", bound=Part)


def validated(kind: type[Kind], found: dict[str, Any]) -> Kind:
    """Return the request, or raise the ApiError that names what is wrong."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(first["type"], first["loc"], first["msg"], first["input"]) from None


def _refusal(problem: str, loc: tuple[int | str, ...], message: str, value: object) -> ApiError:
    param = _path(loc)
    if problem == "missing":
        return invalid(param, "is missing", code="missing_required_parameter")
    if problem == "extra_forbidden":
        return invalid(param, "is unknown or not supported", code="unknown_parameter")
    text = message.removeprefix("Value error, ")
    # A rule about several fields has the whole object for its value.
    quoted = value if isinstance(value, str | int | float | bool) else None
    return invalid(param or None, text[:1].lower() + text[1:], quoted, code="invalid_value")


def _path(loc: tuple[int | str, ...]) -> str:
    """Write messages.0.role as messages[0].role, without pydantic's names of alternatives."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif "[" not in step:
            path += f".{step}" if path else step
    return path
