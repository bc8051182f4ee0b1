"""Who asks: the API key of a request, and the namespace that it stands for."""

import base64
import hashlib
import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers

from lookahead.gateway.errors import ApiError


class ApiKeys:
    """The keys known, as digests; comparing takes equally long whichever of them matches."""

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        self._namespaces = [(_digest(key), name) for key, name in namespaces.items()]

    def namespace(self, headers: Headers) -> str:
        """Return the namespace of a request's key, empty where no keys are set; or refuse it."""
        if not self._namespaces:
            return ""
        digest = _digest(_given(headers))
        found = [name for known, name in self._namespaces if hmac.compare_digest(known, digest)]
        if not found:
            raise ApiError(
                401,
                "authentication_error",
                "wrong or missing API key: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        return found[0]


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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
