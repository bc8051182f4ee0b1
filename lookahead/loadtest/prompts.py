"""What a load test asks: the user's files, or prompts of our own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lookahead.client.results import ChatMessage
from lookahead.terminal.samples import load_openings, load_samples, read_text

Workload = Literal["documents", "prose", "mixed"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue or, where there are messages, a conversation to answer."""

    text: str = ""
    messages: tuple[ChatMessage, ...] = ()

    def as_chat(self) -> "Prompt":
        """Return it as a conversation."""
        if self.messages:
            return self
        return Prompt(messages=({"role": "user", "content": self.text},))


def built_in(workload: Workload) -> list[Prompt]:
    """Answers that copy from a document in the prompt, prose that repeats nothing, or both."""
    documents = [Prompt(sample.text) for sample in load_samples()]
    prose = [Prompt(opening) for opening in load_openings()]
    return {"documents": documents, "prose": prose, "mixed": [*documents, *prose[:3]]}[workload]


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    """Read one prompt from each text file and one from each line of a JSONL file."""
    found: list[Prompt] = []
    for path in paths:
        is_jsonl = path.suffix in (".jsonl", ".ndjson")
        found += _from_jsonl(path) if is_jsonl else [Prompt(read_text(path))]
    return found


def _from_jsonl(path: Path) -> list[Prompt]:
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_from_line(f"{path}:{number}", line) for number, line in lines if line.strip()]


def _from_line(where: str, line: str) -> Prompt:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    match entry:
        case str(text) | {"prompt": str(text)} | {"text": str(text)}:
            return Prompt(text)
        case {"messages": [*messages]} if all(_is_message(message) for message in messages):
            return Prompt(messages=tuple(messages))
    raise ValueError(f"{where}: want a string, or an object with prompt, text or messages")


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and set(message) == {"role", "content"}
