"""Clients of the flood, each a process of its own: `python -m bench.chaos.asking`.

They import little, so that they are there soon, and begin at a time that they are told.
"""

import argparse
import asyncio
import itertools
import json
import time
from dataclasses import dataclass

import httpx

SETTLE_S = 3.0
MAX_TOKENS = 64
# Between two requests of a client that is refused: 200 a second of all hostile ones together, more
# than ten times as many as could be answered.
PACE_S = 0.4
PROBE_S = 0.1


@dataclass(frozen=True, slots=True)
class Client:
    """Whom it asks in whose name, and when what it gets is counted."""

    http: str
    key: str
    begins: float  # time.monotonic()
    seconds: float

    @property
    def counts_from(self) -> float:
        """The time from which on it counts."""
        return self.begins + SETTLE_S

    @property
    def ends(self) -> float:
        """The time at which it begins nothing more."""
        return self.counts_from + self.seconds

    def wait(self) -> None:
        """Wait for the beginning."""
        time.sleep(max(0.0, self.begins - time.monotonic()))


async def ask(client: Client, number: int, *, has_users: bool) -> int:
    """Keep so many requests going; return the tokens that came while it counted."""
    users = itertools.count()
    tokens = 0
    headers = {"authorization": f"Bearer {client.key}"}
    async with httpx.AsyncClient(
        base_url=f"http://{client.http}",
        headers=headers,
        limits=httpx.Limits(max_connections=None),
        timeout=60,
    ) as http:

        async def work() -> None:
            nonlocal tokens
            while time.monotonic() < client.ends:
                body = {"prompt": "a", "max_tokens": MAX_TOKENS, "ignore_eos": True}
                if has_users:
                    body["user"] = f"u{next(users)}"
                answer = await http.post("/v1/completions", json=body)
                if answer.status_code != 200:
                    await asyncio.sleep(PACE_S)
                elif client.counts_from <= time.monotonic() < client.ends:
                    tokens += answer.json()["usage"]["completion_tokens"]

        await asyncio.gather(*(work() for _ in range(number)))
    return tokens


def probe(client: Client) -> list[float]:
    """Ask every now and then; return what refusals took, in milliseconds."""
    found = []
    headers = {"authorization": f"Bearer {client.key}"}
    body = {"prompt": "a", "max_tokens": 1, "stream": True}
    with httpx.Client(base_url=f"http://{client.http}", headers=headers, timeout=60) as http:
        while time.monotonic() < client.ends:
            started = time.monotonic()
            with http.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code in (429, 503) and started >= client.counts_from:
                    found.append(1e3 * (time.monotonic() - started))
            time.sleep(PROBE_S)
    return found


def main() -> None:
    """Be one of the clients; print what it found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("http")
    parser.add_argument("key")
    parser.add_argument("begins", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--streams", type=int, default=0, help="0: probe instead")
    parser.add_argument("--users", action="store_true", help="each request in another user's name")
    args = parser.parse_args()
    client = Client(args.http, args.key, args.begins, args.seconds)
    client.wait()
    if args.streams:
        print(asyncio.run(ask(client, args.streams, has_users=args.users)))
    else:
        print(json.dumps(probe(client)))


if __name__ == "__main__":
    main()
