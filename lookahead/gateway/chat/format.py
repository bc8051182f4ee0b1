"""Choices as OpenAI's /v1/chat/completions writes them."""

from collections.abc import Iterable
from typing import Any

from lookahead.gateway.choice import CallPart, Choice, Piece, ToolCall
from lookahead.gateway.completions.logprobs import rows


class ChatShape:
    """/v1/chat/completions."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def first(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "delta": _delta(piece),
            "logprobs": rows(piece.logprobs) if piece.logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def complete(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": _message(choice),
            "logprobs": rows(choice.logprobs) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }


def call_id(call: ToolCall) -> str:
    """Return the id by which a message of role tool refers to a call."""
    return f"call_{call.key}"


def _message(choice: Choice) -> dict[str, Any]:
    content = "".join(choice.text)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["content"] = content or None
        message["tool_calls"] = [_whole_call(call) for call in choice.calls]
    return message


def _whole_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call_id(call), "type": "function", "function": function}


def _delta(piece: Piece) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.calls:
        delta["tool_calls"] = list(_call_deltas(piece.calls))
    return delta


def _call_deltas(parts: Iterable[CallPart]) -> Iterable[dict[str, Any]]:
    for part in parts:
        delta: dict[str, Any] = {"index": part.call.index}
        function = {"arguments": part.arguments}
        if part.is_first:
            delta |= {"id": call_id(part.call), "type": "function"}
            function = {"name": part.call.name, **function}
        yield {**delta, "function": function}
