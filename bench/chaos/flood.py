"""One key that asks for ten times what it may: the other one gets its share all the same."""

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.chaos.target import HOSTILE, POLITE, target
from bench.serving.figures import Figure, percentile

SECTION = "a flood by one key"
POLITE_STREAMS = 8  # as many as there are slots: it wants all of them
FLOOD = 10  # times as many
MEASURED_S = 10.0
SETTLE_S = 3.0
SHARE, REFUSED_MS = 0.8, 50.0
MAX_TOKENS = 64
# Between two requests of a client that is refused: 200 a second of all hostile ones together, more
# than ten times as many as could be answered.
PACE_S = 0.4
PROBE_S = 0.1


@dataclass(slots=True)
class Served:
    """What one key got in some seconds."""

    tokens: int = 0
    refusals_ms: list[float] = field(default_factory=list)


def flood(seconds: float = MEASURED_S) -> list[Figure]:
    """Both keys want more than there is, the hostile one ten times as much."""
    figures = [Figure(SECTION, "requests of the hostile key at once", FLOOD * POLITE_STREAMS, "")]
    with target({"LOOKAHEAD_VERIFIER_MAX_WAITING": "32"}) as stack:
        for name, has_users in (("", False), (", each with a random user", True)):
            polite, refused_ms = _compete(stack.http, seconds, has_users=has_users)
            figures += [
                Figure(
                    SECTION, f"the polite key's tokens over its fair share{name}", polite,
                    at_least=SHARE,
                ),
                Figure(
                    SECTION, f"refusals, p99{name}", percentile(refused_ms, 0.99), "ms",
                    at_most=REFUSED_MS,
                ),
                Figure(SECTION, f"refusals, median{name}", statistics.median(refused_ms), "ms"),
            ]  # fmt: skip
    return figures


def _compete(http: str, seconds: float, *, has_users: bool) -> tuple[float, list[float]]:
    """The polite key's share over a fair one, and what refusals took, in milliseconds."""
    # Each in a process of its own: the flood must not slow the clock of the others.
    users = ["users"] if has_users else []
    numbers = {POLITE: POLITE_STREAMS, HOSTILE: FLOOD * POLITE_STREAMS}
    children = {
        key: _child("ask", http, key, str(number), str(seconds), *(users if key == HOSTILE else []))
        for key, number in numbers.items()
    }
    probe = _child("probe", http, HOSTILE, str(seconds))
    tokens = {key: json.loads(_said(child)) for key, child in children.items()}
    share = tokens[POLITE] / max(tokens[POLITE] + tokens[HOSTILE], 1)
    return 2 * share, json.loads(_said(probe))


def _child(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.chaos.flood", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _said(child: "subprocess.Popen[str]") -> str:
    said, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"a client of the flood ended with status {child.returncode}")
    return said


async def ask(http: str, key: str, number: int, seconds: float, *, has_users: bool) -> int:
    """Keep so many requests going; return the tokens that came in the last `seconds`."""
    served = Served()
    names = itertools.count()
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=f"http://{http}", headers=headers, limits=limits, timeout=60
    ) as client:
        counts_from = time.monotonic() + SETTLE_S

        async def work() -> None:
            while time.monotonic() < counts_from + seconds:
                user = {"user": f"u{next(names)}"} if has_users else {}
                if not await _ask_once(client, served, counts_from, user):
                    await asyncio.sleep(PACE_S)

        await asyncio.gather(*(work() for _ in range(number)))
    return served.tokens


async def _ask_once(
    client: httpx.AsyncClient, served: Served, counts_from: float, user: dict[str, Any]
) -> bool:
    """Whether it was not refused."""
    body = {"prompt": "a", "max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": 1, **user}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code == 200 and time.monotonic() >= counts_from:
        served.tokens += answer.json()["usage"]["completion_tokens"]
    return answer.status_code == 200


def probe(http: str, key: str, seconds: float) -> list[float]:
    """Ask every now and then; return what refusals took."""
    found = []
    end = time.monotonic() + SETTLE_S + seconds
    with httpx.Client(base_url=f"http://{http}", timeout=60) as client:
        time.sleep(SETTLE_S)
        while time.monotonic() < end:
            started = time.monotonic()
            with client.stream(
                "POST",
                "/v1/completions",
                json={"prompt": "a", "max_tokens": 1, "stream": True},
                headers={"authorization": f"Bearer {key}"},
            ) as answer:
                if answer.status_code in (429, 503):
                    found.append(1e3 * (time.monotonic() - started))
            time.sleep(PROBE_S)
    return found


def main(what: str, http: str, key: str, *rest: str) -> None:
    """Be one of the clients."""
    if what == "ask":
        number, seconds, *users = rest
        wanted = ask(http, key, int(number), float(seconds), has_users=bool(users))
        print(asyncio.run(wanted))
    else:
        print(json.dumps(probe(http, key, float(rest[0]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
