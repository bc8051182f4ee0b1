"""API keys: whoever has one stands for a name, on HTTP as on gRPC.

Keys are compared by their digests, and may be written as digests: `sha256:` and 64 hexadecimal
digits. A file of keys is a JSON object of keys and names, and is read again when it changes.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from rpc.contract import problem_with_name
from rpc.followed import Followed

HASHED = "sha256:"
ANYBODY = "*"  # the name of keys that may speak for others: a gateway's


class Keys:
    """The keys known; comparing takes equally long whichever of them matches."""

    def __init__(self, read: Callable[[], Mapping[str, str]], file: Path | None = None) -> None:
        """`read`: return the keys and their names, or raise ValueError; `file`: where they are."""
        files = [] if file is None else [file]
        self._names = Followed("keys", files, lambda: _by_digest(read()))

    @property
    def are_needed(self) -> bool:
        """Whether there are keys, as the file says now."""
        return bool(self._names.current())

    def name_of(self, key: str) -> str | None:
        """What a key stands for; None where nobody gave it out."""
        digest = _digest(key)
        names = self._names.current()
        found = [name for known, name in names if hmac.compare_digest(known, digest)]
        return found[0] if found else None


def read_keys(file: Path) -> dict[str, str]:
    """Return the keys of a file and their names; ValueError where it is not what it should be."""
    try:
        keys = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {type(error).__name__}") from None
    if not isinstance(keys, dict) or not all(isinstance(name, str) for name in keys.values()):
        raise ValueError(f"{file} is not a JSON object of keys and namespaces")
    if not keys:
        raise ValueError(f"{file} holds no key")
    return keys


def check_keys(keys: Mapping[str, str], *, allows_anybody: bool = False) -> None:
    """Refuse keys and names that cannot be used, with ValueError."""
    if any(not key or key != key.strip() for key in keys):
        raise ValueError("a key is empty or has spaces around it")
    if any(key.startswith(HASHED) and not _is_hashed(key) for key in keys):
        raise ValueError(f"a key begins with {HASHED} and 64 hexadecimal digits do not follow")
    _check_names(set(keys.values()) - ({ANYBODY} if allows_anybody else set()))


def _check_names(names: Set[str]) -> None:
    for name in names:
        if problem := problem_with_name(name):
            raise ValueError(f"namespace {name[:20]!r} {problem}")
        outer = [other for other in names if name.startswith(f"{other}.")]
        if outer:
            raise ValueError(
                f"namespace {name!r} lies inside {outer[0]!r}, the namespace of another key"
            )


def _by_digest(names: Mapping[str, str]) -> list[tuple[bytes, str]]:
    return [(_known_digest(key), name) for key, name in names.items()]


def _known_digest(key: str) -> bytes:
    """The digest of a key as operators write it, in full or hashed."""
    return bytes.fromhex(key[len(HASHED) :]) if _is_hashed(key) else _digest(key)


def _is_hashed(key: str) -> bool:
    return re.fullmatch(f"{HASHED}[0-9a-f]{{64}}", key) is not None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
