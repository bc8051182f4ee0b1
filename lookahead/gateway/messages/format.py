"""Answers as Anthropic's /v1/messages writes them, whole and as its events."""

import json
from collections.abc import Iterable
from typing import Any

from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice, Piece, ToolCall
from lookahead.gateway.errors import ApiError
from lookahead.gateway.messages.errors import error_body
from lookahead.gateway.streams.blocks import Block, Blocks, Step, blocks_of
from lookahead.gateway.streams.format import Event
from lookahead.gateway.usage import Usage, speculation

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesFormat:
    """The answers of /v1/messages."""

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a finished answer."""
        choice = answer.choices[0]
        found = message(answer)
        found["content"] = [_block(block) for block in blocks_of(choice)]
        found |= ending(choice)
        found["usage"] = _usage(Usage.of(answer))
        found["lookahead"] = speculation(answer)
        return found

    def stream(self, answer: Answer) -> "MessageWriter":
        """Return what writes the answer as a stream."""
        return MessageWriter(answer)


class MessageWriter:
    """Named events, a block after the other."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._blocks = Blocks()

    def begin(self, choice: Choice) -> Iterable[Event]:
        """What the answer begins with."""
        yield _event("message_start", message=message(self._answer))
        yield _event("ping")

    def add(self, choice: Choice, piece: Piece) -> Iterable[Event]:
        """What a piece adds."""
        for step in self._blocks.add(piece):
            yield from _step_events(step)

    def end(self) -> Iterable[Event]:
        """Why it ended, and what it took."""
        usage = _usage(Usage.of(self._answer))
        delta = ending(self._answer.choices[0])
        figures = speculation(self._answer)
        yield _event("message_delta", delta=delta, usage=usage, lookahead=figures)
        yield _event("message_stop")

    def fail(self, error: ApiError) -> Iterable[Event]:
        """What ends a stream that fails."""
        yield Event(error_body(error), "error")


def message(answer: Answer) -> dict[str, Any]:
    """Return an answer of which nothing is said yet."""
    num_prompt_tokens = answer.choices[0].generating.started.num_prompt_tokens
    return {
        "id": f"msg_{answer.caller.request_id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(Usage(num_prompt_tokens, 0, 0)),
    }


def ending(choice: Choice) -> dict[str, Any]:
    """Return why a choice ended."""
    assert choice.finished is not None, "only a finished choice has a reason"
    stop = choice.finished.stop_string
    if stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": REASONS[choice.finish_reason], "stop_sequence": None}


def _step_events(step: Step) -> Iterable[Event]:
    index = step.block.index
    if step.begins:
        empty = _block(Block(index, step.block.kind, step.block.call))
        yield _event("content_block_start", index=index, content_block=empty)
    if step.text:
        delta = _delta(step.block.kind, step.text)
        yield _event("content_block_delta", index=index, delta=delta)
    if step.ends:
        if step.block.kind == "reasoning":
            signature = {"type": "signature_delta", "signature": ""}
            yield _event("content_block_delta", index=index, delta=signature)
        yield _event("content_block_stop", index=index)


def _block(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    if block.kind == "text":
        return {"type": "text", "text": block.text}
    assert block.call is not None
    return {
        "type": "tool_use",
        "id": _call_id(block.call),
        "name": block.call.name,
        "input": _input(block.text),
    }


def _call_id(call: ToolCall) -> str:
    return f"toolu_{call.key}"


def _input(arguments: str) -> dict[str, Any]:
    """The arguments; none where a limit cut them short, as the reason of the end tells."""
    try:
        found: dict[str, Any] = json.loads(arguments or "{}")
    except ValueError:
        return {}
    return found


def _delta(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    if kind == "text":
        return {"type": "text_delta", "text": text}
    return {"type": "input_json_delta", "partial_json": text}


def _usage(found: Usage) -> dict[str, Any]:
    return {
        # Cached tokens are counted apart here.
        "input_tokens": found.num_prompt_tokens - found.num_cached_tokens,
        "cache_read_input_tokens": found.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": found.num_output_tokens,
    }


def _event(name: str, /, **fields: object) -> Event:
    return Event({"type": name, **fields}, name)
