"""The memory that a request drafts from: that of its API key, narrowed by the request's fields.

A request can narrow its key's namespace, never leave it. Names of end users are hashed, so that
none of them appears in a log or a Redis key.
"""

import hashlib
import re
from collections.abc import Set

from lookahead.gateway.errors import invalid

MAX_NAMESPACE_CHARS = 128  # the contract's
NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,128}")
DIGEST_CHARS = 16


def check_namespaces(namespaces: Set[str]) -> None:
    """Refuse invalid namespaces of keys, and one that lies inside another key's namespace."""
    for name in namespaces:
        if not NAMESPACE.fullmatch(name):
            raise ValueError(f"namespace {name[:20]!r} must be 1 to 128 of A-Z a-z 0-9 . _ -")
        outer = [other for other in namespaces if name.startswith(f"{other}.")]
        if outer:
            raise ValueError(
                f"namespace {name!r} lies inside {outer[0]!r}, the namespace of another key"
            )


def narrowed(base: str, *, inner: str | None, user: str | None, salt: str | None) -> str:
    """Return the namespace inside `base` (empty: the server's default) that a request names."""
    if inner is not None and not NAMESPACE.fullmatch(inner):
        raise invalid("lookahead.namespace", "must be 1 to 128 of A-Z a-z 0-9 . _ -", inner)
    parts = [base, inner or ""]
    parts += [_digest("u", user), _digest("s", salt)]
    name = ".".join(part for part in parts if part)
    if len(name) > MAX_NAMESPACE_CHARS:
        problem = f"has more than {MAX_NAMESPACE_CHARS} characters with this key's namespace"
        raise invalid("lookahead.namespace", problem, inner)
    return name


def _digest(kind: str, text: str | None) -> str:
    """Return a hash that stands for a text without revealing it."""
    if not text:
        return ""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]}"
