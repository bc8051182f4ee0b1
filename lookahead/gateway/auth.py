"""Who asks: the API key of a request, and the namespace that it stands for."""

import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.datastructures import Headers

from lookahead.gateway.errors import ApiError

logger = logging.getLogger(__name__)

HASHED = "sha256:"


class ApiKeys:
    """The keys known, as digests; comparing takes equally long whichever of them matches.

    A file is read again when it changes, so that keys come and go without a restart.
    """

    def __init__(self, read: Callable[[], Mapping[str, str]], file: Path | None = None) -> None:
        self._read, self._file = read, file
        self._stamp = _stamp(file)
        self._namespaces = _by_digest(read())

    def namespace(self, headers: Headers) -> str:
        """Return the namespace of a request's key, empty where no keys are set; or refuse it."""
        self._follow()
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

    def _follow(self) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._namespaces = _by_digest(self._read())
        except ValueError as error:  # half way through a change, say: the old ones go on
            logger.warning("keys_unreadable error=%s", error)
            return
        logger.info("keys_renewed keys=%d", len(self._namespaces))


def _by_digest(namespaces: Mapping[str, str]) -> list[tuple[bytes, str]]:
    return [(_known_digest(key), name) for key, name in namespaces.items()]


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """What changes with a file; the same as before while there is none."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


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


def _known_digest(key: str) -> bytes:
    """The digest of a key as operators write it, in full or hashed."""
    return bytes.fromhex(key[len(HASHED) :]) if is_hashed(key) else _digest(key)


def is_hashed(key: str) -> bool:
    """Whether a key is written as its hash: `sha256:` and 64 hexadecimal digits."""
    return re.fullmatch(f"{HASHED}[0-9a-f]{{64}}", key) is not None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
