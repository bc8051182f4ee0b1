"""The memory that a request drafts from: that of its API key, narrowed by the request's fields.

A request can narrow its key's namespace, never leave it. Names of end users are hashed, so that
none of them appears in a log or a Redis key.
"""

import hashlib

from lookahead.gateway.errors import invalid
from rpc.contract import MAX_NAME_CHARS, problem_with_name

DIGEST_CHARS = 16


def narrowed(base: str, *, inner: str | None, user: str | None, salt: str | None) -> str:
    """Return the namespace inside `base` (empty: the server's default) that a request names."""
    if inner is not None and (problem := problem_with_name(inner)):
        raise invalid("lookahead.namespace", problem, inner)
    parts = [base, inner or ""]
    parts += [_digest("u", user), _digest("s", salt)]
    name = ".".join(part for part in parts if part)
    if len(name) > MAX_NAME_CHARS:
        problem = f"has more than {MAX_NAME_CHARS} characters with this key's namespace"
        raise invalid("lookahead.namespace", problem, inner)
    return name


def _digest(kind: str, text: str | None) -> str:
    """Return a hash that stands for a text without revealing it."""
    if not text:
        return ""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]}"
