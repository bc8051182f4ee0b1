"""What goes wrong, as OpenAI's clients expect to read it: {"error": {message, type, param, code}}.

| status | type                  | when                                               |
|--------|-----------------------|----------------------------------------------------|
| 400    | invalid_request_error | a field is wrong, unknown or unsupported           |
| 401    | authentication_error  | no API key, or one that is not known               |
| 404    | invalid_request_error | no such route, or no such model                    |
| 405    | invalid_request_error | the route knows another method                     |
| 408    | timeout_error         | the client took too long to send its request       |
| 413    | invalid_request_error | the body is too long                               |
| 415    | invalid_request_error | the body is not said to be JSON                    |
| 429    | rate_limit_error      | too much to do at the moment; see Retry-After      |
| 500    | server_error          | a failure that a log tells more of                 |
| 503    | unavailable_error     | no verifier answers, or it stops; see Retry-After  |
| 504    | timeout_error         | the answer took too long                           |
"""

import math
import re
from collections.abc import Sequence

from lookahead.client.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    LookaheadError,
    ResourceExhausted,
    Unavailable,
)
from lookahead.gateway.request import FieldName
from rpc.contract import LEAVES_ROOM
from rpc.errors import RETRY_AFTER_S

MAX_VALUE_CHARS = 100

# What OpenAI's completions call the contract's fields; other names come with the request.
FIELD_NAMES = (
    FieldName(re.compile(r"^text$"), "prompt"),
    FieldName(re.compile(r"^token_ids(\.ids)?"), "prompt"),
    FieldName(re.compile(r"^chat\.messages"), "messages"),
    FieldName(re.compile(r"^chat$"), "messages"),
    FieldName(re.compile(r"^stopping\.stop_strings"), "stop"),
    FieldName(re.compile(r"^speculation\.prediction"), "prediction"),
    FieldName(re.compile(r"^speculation\."), "lookahead."),
    FieldName(re.compile(r"^constraint\b.*"), "response_format"),
    FieldName(re.compile(r"^(sampling|stopping|output)\."), ""),
)


class ApiError(Exception):
    """An answer other than the one asked for."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """What is sent."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Whole seconds, as the header wants; at least one."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


def stopping() -> ApiError:
    """Return the error of a request that this gateway has no time left for."""
    message = "the gateway shut down before the answer was complete"
    kind, code = "unavailable_error", "gateway_stopping"
    return ApiError(503, kind, message, code=code, retry_after_s=RETRY_AFTER_S)


def invalid(
    param: str | None, problem: str, value: object = None, *, code: str | None = None
) -> ApiError:
    """Return the error that blames one field, quoting the start of its value."""
    quoted = "" if value is None else f", got {repr(value)[:MAX_VALUE_CHARS]}"
    message = f"{param}: {problem}{quoted}" if param else f"{problem}{quoted}"
    return ApiError(400, "invalid_request_error", message, param=param, code=code)


def from_call(error: LookaheadError, names: Sequence[FieldName] = ()) -> ApiError:
    """Return what a failed call to the verifier means to the client.

    `names`: what the request calls fields of the contract, before the usual names.
    """
    if isinstance(error, InvalidRequest):
        return _from_violations(error, (*names, *FIELD_NAMES))
    if isinstance(error, FailedPrecondition):
        return invalid(None, str(error))
    if isinstance(error, ResourceExhausted):
        return _later(429, "rate_limit_error", error, code="overloaded")
    if isinstance(error, Unavailable):
        return _later(503, "unavailable_error", error, code="verifier_unavailable")
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, "timeout_error", "the answer took too long", code="timeout")
    return ApiError(500, "server_error", str(error), code="verifier_failed")


def _later(status: int, kind: str, error: LookaheadError, *, code: str) -> ApiError:
    delay_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return ApiError(status, kind, str(error), code=code, retry_after_s=delay_s)


def _from_violations(error: InvalidRequest, names: Sequence[FieldName]) -> ApiError:
    if not error.violations:
        return invalid(None, str(error))
    named = [(_param(v.field, names), v.description) for v in error.violations]
    message = "; ".join(f"{param}: {description}" for param, description in named)
    is_too_long = any(LEAVES_ROOM in violation.description for violation in error.violations)
    code = "context_length_exceeded" if is_too_long else "invalid_value"
    return ApiError(400, "invalid_request_error", message, param=named[0][0], code=code)


def _param(field: str, names: Sequence[FieldName]) -> str:
    for name in names:
        if name.contract.search(field):
            return name.contract.sub(name.public, field, count=1)
    return field
