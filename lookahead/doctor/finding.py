"""What a check found, and what to do about it."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # it works, but less well than it could
    PROBLEM = "problem"  # it does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line on the state; if something is wrong, one line on how to fix it."""

    about: str
    verdict: Verdict
    what: str
    do: str = ""


def ok(about: str, what: str) -> Finding:
    """All is well."""
    return Finding(about, Verdict.OK, what)


def warning(about: str, what: str, do: str) -> Finding:
    """It could be better."""
    return Finding(about, Verdict.WARNING, what, do)


def problem(about: str, what: str, do: str) -> Finding:
    """It will fail."""
    return Finding(about, Verdict.PROBLEM, what, do)
