"""A polite client in a process of its own, so that no attacker's work slows its clock.

It asks for the same answer again and again, and asks the gateway every now and then how it is. Each
answer and each look is one line of JSON. `Witness` starts it and reads the lines.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.serving.figures import Figure, percentile

PROMPT = "The witness tells the same story every day, and so it must be the same story."
MAX_TOKENS = 64
HEALTH_EVERY_S = 0.05
TIMEOUT_S = 60.0
CALM_ANSWERS = 8


@dataclass(slots=True)
class Seen:
    """What a witness saw in some seconds."""

    texts: list[str] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)  # per token of each answer, after the first
    health_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """Take what happened once."""
        if line["kind"] == "health":
            self.health_ms.append(line["ms"])
        elif line["kind"] == "failure":
            self.failures.append(line["what"])
        else:
            self.texts.append(line["text"])
            self.token_ms.append(line["ms"])

    @property
    def num_answers(self) -> int:
        """Answers that came to their end."""
        return len(self.texts)

    @property
    def health_p99_ms(self) -> float:
        """Of the looks."""
        return percentile(self.health_ms, 0.99)

    def num_different(self, text: str) -> int:
        """Answers that are not this text."""
        return sum(one != text for one in self.texts)


class Witness:
    """The process, and what it has said so far."""

    def __init__(self, http: str, key: str, pause_s: float) -> None:
        command = [sys.executable, "-m", "bench.chaos.witness", http, key, str(pause_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, name="witness")
        self._reader.start()
        self.text = ""

    def _read(self) -> None:
        assert self._process.stdout is not None, "stdout is a pipe"
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(json.loads(line))

    def seen(self, start: int = 0) -> Seen:
        """Everything from a mark on."""
        seen = Seen()
        for line in self._lines[start:]:
            seen.add(line)
        return seen

    def mark(self) -> int:
        """Now, for `seen`."""
        return len(self._lines)

    def calm(self) -> Seen:
        """What it sees while nothing happens; its text is the one that all others must be."""
        start = self.mark()
        self.wait_for(CALM_ANSWERS, start)
        found = self.seen(start)
        self.text = found.texts[0]
        return found

    def wait_for(self, answers: int, start: int) -> None:
        """Wait until there are so many more answers."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.seen(start).num_answers < answers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer: {self.seen(start).failures[-3:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()


@contextmanager
def witness(http: str, key: str, pause_s: float = 0.0) -> Iterator[Witness]:
    """A witness for the length of a `with` block, which waits that long between answers."""
    found = Witness(http, key, pause_s)
    try:
        yield found
    finally:
        found.stop()


def others(section: str, seen: Seen, text: str) -> list[Figure]:
    """Whether those who did nothing got what they asked for."""
    return [
        Figure(section, "answers to others meanwhile", seen.num_answers, ""),
        Figure(
            section, "answers to others in other words", seen.num_different(text), "", at_most=0
        ),
        Figure(section, "requests of others that failed", len(seen.failures), "", at_most=0),
    ]


def main(http: str, key: str, pause_s: str) -> None:
    """Ask until told to stop."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://{http}", headers=headers, timeout=TIMEOUT_S) as client:
        threading.Thread(target=_look, args=(client,), daemon=True).start()
        while True:
            try:
                _tell(kind="answer", **_answer(client))
                time.sleep(float(pause_s))
            except (httpx.HTTPError, ValueError) as error:
                _tell(kind="failure", what=f"{type(error).__name__}: {error}")
                time.sleep(HEALTH_EVERY_S)


def _look(client: httpx.Client) -> None:
    while True:
        started = time.monotonic()
        try:
            client.get("/health").raise_for_status()
            _tell(kind="health", ms=1e3 * (time.monotonic() - started))
        except httpx.HTTPError as error:
            _tell(kind="failure", what=f"health: {type(error).__name__}: {error}")
        time.sleep(HEALTH_EVERY_S)


def _answer(client: httpx.Client) -> dict[str, Any]:
    """One streamed answer: its text, and milliseconds per token after the first event."""
    body = {
        "prompt": PROMPT,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    text, times = "", list[float]()
    with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        is_whole = False
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                is_whole = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise ValueError(event["error"]["message"])
                text += event["choices"][0]["text"]
                times.append(time.monotonic())
    if not is_whole:
        raise ValueError("the stream ended without its end")
    return {"text": text, "ms": 1e3 * (times[-1] - times[0]) / (MAX_TOKENS - 1)}


def _tell(**line: object) -> None:
    # One write a line: two threads tell.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
