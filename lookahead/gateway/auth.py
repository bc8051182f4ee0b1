"""Who asks: the API key of a request, and the namespace that it stands for."""

import base64

from starlette.datastructures import Headers

from lookahead.gateway.errors import ApiError
from rpc.keys import Keys


def namespace_of(keys: Keys, headers: Headers) -> str:
    """Return the namespace of a request's key, empty where no keys are set; or refuse it."""
    if not keys.are_needed:
        return ""
    name = keys.name_of(_given(headers))
    if name is None:
        raise ApiError(
            401,
            "authentication_error",
            "wrong or missing API key: send the header Authorization: Bearer KEY",
            code="invalid_api_key",
        )
    return name


def _given(headers: Headers) -> str:
    """Return the key of a request; Anthropic's and Azure's clients have headers of their own."""
    authorization = headers.get("authorization", "")
    return _key(authorization) or headers.get("x-api-key", "") or headers.get("api-key", "")


def _key(authorization: str) -> str:
    """Return the key of a Bearer token or, for browsers, the password of Basic credentials."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, or no text in it
            return ""
    return ""
