"""The items of an answer of /v1/responses: what is thought, what is said, and calls."""

from collections.abc import Iterator
from typing import Any

from lookahead.gateway.chat.format import call_id
from lookahead.gateway.responses.tools import Names
from lookahead.gateway.streams.blocks import Block

# What the parts of an item are called, and its id begins with.
STARTS = {"reasoning": ("reasoning_text", "rs"), "text": ("output_text", "msg")}


def item(
    block: Block, key: str, status: str, names: Names, *, is_empty: bool = False
) -> dict[str, Any]:
    """Return an item; `key` makes the ids of one answer its own."""
    if block.kind == "call":
        assert block.call is not None
        return {
            "type": "function_call",
            "id": f"fc_{block.call.key}",
            "call_id": call_id(block.call),
            **names.get(block.call.name, {"name": block.call.name}),
            "arguments": "" if is_empty else block.text,
            "status": status,
        }
    content = [] if is_empty else [part(block.kind, block.text)]
    found: dict[str, Any] = {"id": f"{STARTS[block.kind][1]}_{key}_{block.index}"}
    if block.kind == "reasoning":
        return found | {"type": "reasoning", "summary": [], "content": content, "status": status}
    return found | {"type": "message", "role": "assistant", "content": content, "status": status}


def part(kind: str, text: str) -> dict[str, Any]:
    """Return a part of an item."""
    found: dict[str, Any] = {"type": STARTS[kind][0], "text": text}
    return found | ({"annotations": [], "logprobs": []} if kind == "text" else {})


def deltas(block: Block, text: str) -> tuple[str, dict[str, Any]]:
    """Return the event of a text that is added: its name and fields."""
    if block.kind == "call":
        return "response.function_call_arguments.delta", {"delta": text}
    more: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
    return f"response.{STARTS[block.kind][0]}.delta", {"delta": text, **more}


def ended(block: Block, names: Names) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a block's end."""
    if block.kind == "call":
        assert block.call is not None
        named = names.get(block.call.name, {"name": block.call.name})
        yield "response.function_call_arguments.done", {"arguments": block.text, **named}
        return
    more: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
    yield f"response.{STARTS[block.kind][0]}.done", {"text": block.text, **more}
    yield "response.content_part.done", {"part": part(block.kind, block.text)}
