"""What the benchmark and its workers say to each other: a JSON object a line, one answer to each.

Workers run in environments of their own, so this file needs nothing but the standard library.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Load:
    """Which weights to serve, and how."""

    model: str
    dtype: str
    method: str
    threads: int


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts to answer all at once: greedily, with so many tokens, whatever token ends a text."""

    prompts: list[list[int]]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's answer. Seconds count from the start of the job, by the server's own clock."""

    text: str
    num_tokens: int
    first_s: float
    end_s: float
    num_steps: int | None = None  # decode steps; None where the server does not tell


class Backend(Protocol):
    """A server inside its worker."""

    def load(self, load: Load) -> None:
        """Get ready to answer; called once, first."""

    def answer(self, job: Job) -> list[Answer]:
        """Answer the prompts, in their order."""

    def forget(self) -> None:
        """Drop what was remembered of earlier answers."""


def serve(backend: Backend) -> None:
    """Answer requests on stdin until it ends. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        replies.write(json.dumps(_reply(backend, json.loads(line))) + "\n")
        replies.flush()


def _reply(backend: Backend, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": _result(backend, request.pop("call"), request)}
    except Exception as error:  # whatever the server raises is why it has no figures
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _result(backend: Backend, call: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    if call == "load":
        backend.load(Load(**fields))
        return []
    if call == "forget":
        backend.forget()
        return []
    if call == "answer":
        return [asdict(answer) for answer in backend.answer(Job(**fields))]
    raise ValueError(f"no call {call!r}")
