"""Whole conversations with tools: each turn starts from the rows of the last one, and says the
same as asked afresh."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.servers.running_gateway import gateway, host
from tests.support.servers.running_verifier import verifier

pytestmark = pytest.mark.slow

NUM_TURNS = 10
RULES = "An agent moves an arm over a table. " * 60
MOVE = {
    "type": "function",
    "function": {
        "name": "move",
        "parameters": {
            "type": "object",
            "properties": {"to": {"enum": ["left", "right"]}, "steps": {"type": "integer"}},
            "required": ["to"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "move"}}


@dataclass
class Turn:
    """A request and what its answer held."""

    asked: dict[str, Any]
    message: dict[str, Any]
    usage: dict[str, Any]

    @property
    def said(self) -> Any:
        """The words: content, and calls without their ids."""
        calls = [call["function"] for call in self.message.get("tool_calls") or []]
        return self.message.get("content"), calls, self.usage["completion_tokens"]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        host() as loop,
        loop.holding(verifier(max_context=4000)) as (address, _),
        loop.holding(gateway(address)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=60) as client,
    ):
        yield client


def ask(client: httpx.Client, asked: dict[str, Any], **more: Any) -> Turn:
    answer = client.post("/v1/chat/completions", json={**asked, **more})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return Turn(asked, found["choices"][0]["message"], found["usage"])


def converse(client: httpx.Client, sampling: dict[str, Any]) -> list[Turn]:
    """Every other turn makes a call; the next one has its result."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": "Begin."},
    ]
    turns: list[Turn] = []
    for place in range(NUM_TURNS):
        calls = place % 2 == 0
        limit = {"tool_choice": NAMED if calls else "none", "max_tokens": 60 if calls else 12}
        asked = {"messages": list(messages), "tools": [MOVE], **limit, **sampling}
        turns.append(ask(client, asked))
        message = turns[-1].message
        messages.append(message)
        if message.get("tool_calls"):
            call_id = message["tool_calls"][0]["id"]
            messages.append({"role": "tool", "tool_call_id": call_id, "content": f"at {place}"})
        else:
            messages.append({"role": "user", "content": f"Go on, {place}."})
    return turns


def test_ten_turns_reuse_their_rows_and_say_what_they_would_afresh(client: httpx.Client) -> None:
    turns = converse(client, {"temperature": 0})
    for place, turn in enumerate(turns):
        usage = turn.usage
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        if place >= 2:
            assert cached >= 0.9 * usage["prompt_tokens"], place
            assert usage["prompt_tokens"] > turns[place - 1].usage["prompt_tokens"]
        # A namespace of its own has no rows and remembers nothing.
        alone = ask(client, turn.asked, cache_salt=f"{place}", lookahead={"mode": "off"})
        assert alone.usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert alone.usage["prompt_tokens"] == usage["prompt_tokens"]
        assert alone.said == turn.said, place
