"""The shapes of OpenAI's answers: completions and chat, whole and in chunks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from lookahead.gateway.choice import Choice, Piece
from lookahead.gateway.token_texts import TokenText

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Format(Protocol):
    """The differences between the two kinds of answer."""

    prefix: ClassVar[str]  # of an answer's id
    whole: ClassVar[str]  # what a whole answer is called
    chunk: ClassVar[str]  # what a part of one is called

    def first(self, index: int) -> dict[str, Any] | None:
        """A choice's first entry in a stream, before there is any text."""

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """A choice's entry in a chunk; `offset` is the length of the tokens' texts before."""

    def complete(self, choice: Choice, finish_reason: str) -> dict[str, Any]:
        """A choice's entry in a whole answer."""


class CompletionFormat:
    """/v1/completions."""

    prefix: ClassVar[str] = "cmpl"
    whole: ClassVar[str] = "text_completion"
    chunk: ClassVar[str] = "text_completion"

    def first(self, index: int) -> dict[str, Any] | None:
        return None

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "logprobs": _columns(piece.logprobs, offset) if piece.logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def complete(self, choice: Choice, finish_reason: str) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": "".join(choice.text),
            "logprobs": _columns(choice.logprobs, 0) if choice.logprobs else None,
            "finish_reason": finish_reason,
        }


class ChatFormat:
    """/v1/chat/completions."""

    prefix: ClassVar[str] = "chatcmpl"
    whole: ClassVar[str] = "chat.completion"
    chunk: ClassVar[str] = "chat.completion.chunk"

    def first(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": _rows(piece.logprobs) if piece.logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def complete(self, choice: Choice, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(choice.text), "refusal": None}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": _rows(choice.logprobs) if choice.logprobs else None,
            "finish_reason": finish_reason,
        }


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all chunks of an answer share."""

    format: Format
    answer_id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def answer(self, choices: Sequence[dict[str, Any]], **more: object) -> dict[str, Any]:
        """Return a whole answer."""
        return self._wrap(self.format.whole, choices, more)

    def chunk(self, choices: Sequence[dict[str, Any]], **more: object) -> dict[str, Any]:
        """Return a part of a stream."""
        return self._wrap(self.format.chunk, choices, more)

    def _wrap(
        self, kind: str, choices: Sequence[dict[str, Any]], more: dict[str, object]
    ) -> dict[str, Any]:
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
            **more,
        }


def _columns(tokens: Sequence[TokenText], offset: int) -> dict[str, list[Any]]:
    """Log probabilities as /v1/completions writes them."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_by_text(token.top) for token in tokens],
        "text_offset": offsets,
    }


def _by_text(tokens: Sequence[TokenText]) -> dict[str, float]:
    """Log probabilities by text; of equal texts (parts of characters) all but one go by id."""
    found: dict[str, float] = {}
    for token in tokens:
        name = f"token_id:{token.token_id}" if token.text in found else token.text
        found[name] = token.logprob
    return found


def _rows(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Log probabilities as /v1/chat/completions writes them."""
    rows = [{**_row(token), "top_logprobs": [_row(top) for top in token.top]} for token in tokens]
    return {"content": rows, "refusal": None}


def _row(token: TokenText) -> dict[str, Any]:
    # A token that is only a part of a character has no bytes that its text could tell.
    known = REPLACEMENT not in token.text
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()) if known else None,
    }
