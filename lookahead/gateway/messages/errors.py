"""Errors as Anthropic's clients expect to read them."""

from typing import Any

from lookahead.gateway.errors import ApiError

PATH = "/v1/messages"  # and what begins with it
KINDS = {
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error."""
    own = error.body()["error"]
    kind = KINDS.get(error.status, error.kind)
    return {"type": "error", "error": {**own, "type": kind}}


def body_for(path: str, error: ApiError) -> dict[str, Any]:
    """Return the body of an error in the form of the path's API."""
    is_ours = path == PATH or path.startswith(f"{PATH}/")
    return error_body(error) if is_ours else error.body()
