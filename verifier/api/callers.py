"""Who calls: the name that an API key stands for, and requests that stay within it.

A request narrows the namespace of its key and never leaves it. Example: with a key of `team`, the
namespace `drafts` of a request is `team.drafts`, and without one it is `team`.
"""

from typing import Any

from protos import verifier_pb2 as pb
from rpc.contract import MAX_NAME_CHARS
from rpc.errors import InvalidRequest, Unauthenticated
from rpc.keys import ANYBODY, Keys

BEARER = "bearer "


class Callers:
    """Checks keys, where the settings name some."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    def check(self, context: Any) -> str:
        """Return the caller's name, empty for one who may speak for anybody; Unauthenticated."""
        if self._keys is None or not self._keys.are_needed:
            return ""
        name = self._keys.name_of(_given(dict(context.invocation_metadata())))
        if name is None:
            raise Unauthenticated(
                "wrong or missing API key: send it as metadata, authorization: Bearer KEY"
            )
        return "" if name == ANYBODY else name

    def confine(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateRequest:
        """Check the caller; return the request with the account and namespace of its key."""
        name = self.check(context)
        if not name:
            return request
        if request.account not in ("", name):
            raise InvalidRequest.at("account", "is set by the API key", request.account)
        inner = request.speculation.namespace
        is_inside = inner == name or inner.startswith(f"{name}.")
        namespace = inner if is_inside else ".".join(filter(None, (name, inner)))
        if len(namespace) > MAX_NAME_CHARS:
            problem = f"has more than {MAX_NAME_CHARS} characters with this key's namespace"
            raise InvalidRequest.at("speculation.namespace", problem, inner)
        confined = pb.GenerateRequest()
        confined.CopyFrom(request)
        confined.account, confined.speculation.namespace = name, namespace
        return confined


def _given(metadata: dict[str, Any]) -> str:
    authorization = str(metadata.get("authorization", ""))
    if authorization.lower().startswith(BEARER):
        return authorization[len(BEARER) :].strip()
    return str(metadata.get("x-api-key", ""))
