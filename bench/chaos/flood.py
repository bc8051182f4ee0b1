"""One key that asks for ten times what it may: the other one gets its share all the same."""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.chaos.target import HOSTILE, POLITE, target
from bench.serving.figures import Figure, percentile

SECTION = "a flood by one key"
POLITE_STREAMS = 8  # as many as there are slots: it wants all of them
FLOOD = 10  # times as many
MEASURED_S = 10.0
START_S = 5.0  # for the clients to be there
SHARE, REFUSED_MS = 0.8, 50.0
QUEUE = {"LOOKAHEAD_VERIFIER_MAX_WAITING": "32"}


def flood(seconds: float = MEASURED_S) -> list[Figure]:
    """Both keys want more than there is, the hostile one ten times as much."""
    figures = [Figure(SECTION, "requests of the hostile key at once", FLOOD * POLITE_STREAMS, "")]
    with target(QUEUE) as stack:
        for name, users in (("", []), (", each with a random user", ["--users"])):
            share, refused_ms = _compete(stack.http, seconds, users)
            figures += [
                Figure(
                    SECTION,
                    f"the polite key's tokens over its fair share{name}",
                    share,
                    at_least=SHARE,
                ),
                Figure(
                    SECTION,
                    f"refusals, p99{name}",
                    percentile(refused_ms, 0.99),
                    "ms",
                    at_most=REFUSED_MS,
                ),
                Figure(SECTION, f"refusals, median{name}", statistics.median(refused_ms), "ms"),
            ]
    return figures


def _compete(http: str, seconds: float, users: list[str]) -> tuple[float, list[float]]:
    """The polite key's share over a fair one, and what refusals took, in milliseconds."""
    # Each in a process of its own: the flood must not slow the clock of the others.
    when = [str(time.monotonic() + START_S), str(seconds)]
    streams = str(FLOOD * POLITE_STREAMS)
    polite = _child(http, POLITE, *when, "--streams", str(POLITE_STREAMS))
    hostile = _child(http, HOSTILE, *when, "--streams", streams, *users)
    probe = _child(http, HOSTILE, *when)
    tokens = [_said(child) for child in (polite, hostile)]
    return 2 * tokens[0] / max(sum(tokens), 1), _said(probe)


def _child(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.chaos.asking", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _said(child: "subprocess.Popen[str]") -> Any:
    said, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"a client of the flood ended with status {child.returncode}")
    return json.loads(said)
