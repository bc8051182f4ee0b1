"""The one rule for names of namespaces and vocabularies, which stand in keys of Redis."""

import re

MAX_CHARS = 128
_ALLOWED = re.compile(r"[A-Za-z0-9._-]*")


def problem_with(name: str, *, may_be_empty: bool = False) -> str | None:
    """Say what is wrong with a name, or return None: `problem_with("team a")` is "must be ..."."""
    fits = len(name) <= MAX_CHARS and (name or may_be_empty)
    if fits and _ALLOWED.fullmatch(name):
        return None
    return f"must be {'at most' if may_be_empty else '1 to'} {MAX_CHARS} of A-Z a-z 0-9 . _ -"
