"""Reads a request's body: JSON of bounded size and depth, every text valid Unicode."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from lookahead.gateway.errors import ApiError, invalid
from lookahead.gateway.schema import Part
from lookahead.gateway.tolerance import is_harmless, place, take_out

MAX_DEPTH = 64


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body of a request that is said to be JSON, or raise an ApiError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also keeps other web pages out: a browser asks before it sends JSON across origins.
    if media_type != "application/json":
        problem = f"content-type must be application/json, got {media_type[:50]!r}"
        raise ApiError(415, "invalid_request_error", problem, code="unsupported_media_type")
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes)
    except TimeoutError:
        problem = f"the body did not arrive within {timeout_s:g} s"
        raise ApiError(408, "timeout_error", problem, code="request_timeout") from None


def parse(body: bytes) -> dict[str, Any]:
    """Return the object that `body` holds."""
    try:
        found = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body is not UTF-8: {error.reason} at {error.start}") from None
    except RecursionError:
        raise invalid(None, f"the body is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise invalid(None, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid(None, "the body must be a JSON object")
    _check(found, "", 0)
    return found


async def _read(request: Request, max_bytes: int) -> bytes:
    too_long = ApiError(
        413,
        "invalid_request_error",
        f"the body must be at most {max_bytes} bytes",
        code="body_too_large",
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:50]!r} appears twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check(value: object, path: str, depth: int) -> None:
    """Refuse values nested too deep, and half characters, which protocol buffers cannot hold."""
    if depth > MAX_DEPTH:
        raise invalid(path.split(".")[0], f"is nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, path)
            _check(item, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if not isinstance(item, int | float):  # of which there may be a million
                _check(item, f"{path}[{i}]", depth + 1)


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(path, "contains half of a surrogate pair, which is not a character") from None


Kind = TypeVar("Kind", bound=Part)


@dataclass(frozen=True, slots=True)
class Validated(Generic[Kind]):
    """A request, and the fields of it that have no effect."""

    request: Kind
    ignored: tuple[str, ...]


def validated(kind: type[Kind], found: dict[str, Any], *, ignores_unknown: bool) -> Validated[Kind]:
    """Return the request, or raise an ApiError that names the wrong field."""
    ignored: list[str] = []
    while True:
        try:
            return Validated(kind.model_validate(found), tuple(sorted(set(ignored))))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
        unknown = [p for p in problems if p["type"] == "extra_forbidden"]
        for problem in unknown:
            path = place(_path(problem["loc"]))
            if not (ignores_unknown or is_harmless(path, problem["input"])):
                raise _refusal_of(problem)
        if not unknown:
            raise _refusal_of(problems[0])
        for problem in unknown:
            ignored.append(place(_path(problem["loc"])))
            take_out(found, problem["loc"])


def _refusal_of(problem: ErrorDetails) -> ApiError:
    return _refusal(problem["type"], problem["loc"], problem["msg"], problem["input"])


def _refusal(problem: str, loc: tuple[int | str, ...], message: str, value: object) -> ApiError:
    param = _path(loc)
    if problem == "missing":
        return invalid(param, "is missing", code="missing_required_parameter")
    if problem == "union_tag_invalid":
        kind = value.get("type") if isinstance(value, dict) else value
        return invalid(f"{param}.type", "is not supported here", kind, code="invalid_value")
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
