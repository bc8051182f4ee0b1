"""Prompts of the end-to-end benchmark: those that copy, and those where little can be predicted."""

import json
import random
from pathlib import Path

from lookahead.client.results import ChatMessage
from lookahead.terminal.samples import load_openings, load_samples

PROMPTS = Path(__file__).parent / "prompts"
OPENINGS = load_openings()


def copying() -> dict[str, list[str]]:
    """Prompts whose answers copy from them, by kind."""
    documents = [sample.text for sample in load_samples()]
    return {
        "retrieval": documents[:2],
        "JSON": documents[2:],
        "code edit": [(PROMPTS / "edit.txt").read_text()],
    }


def mixed(count: int) -> list[str]:
    """Prompts of all kinds in turn, creative ones among them."""
    prompts = [prompt for kind in copying().values() for prompt in kind]
    prompts += OPENINGS[:2]
    return [prompts[i % len(prompts)] for i in range(count)]


def chats() -> list[list[ChatMessage]]:
    """Conversations that wait for the assistant's next message."""
    conversations: list[list[ChatMessage]] = json.loads((PROMPTS / "chats.json").read_text())
    return conversations


def noise(length: int, vocabulary: int, seed: int) -> list[int]:
    """Random ids, which nobody can have cached and no memory can predict."""
    return random.Random(seed).choices(range(2, vocabulary), k=length)
