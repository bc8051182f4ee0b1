"""Answers as OpenAI's /v1/completions and /v1/chat/completions write them, whole and in chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from lookahead.client.responses import source_names, to_draft_tree
from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice, Piece
from lookahead.gateway.completions.logprobs import columns, ranked
from lookahead.gateway.errors import ApiError
from lookahead.gateway.schema import Generation, StreamOptions
from lookahead.gateway.streams.format import Event
from lookahead.gateway.tokens.texts import TokenText
from lookahead.gateway.usage import Usage, speculation
from protos import verifier_pb2 as pb

DONE = "[DONE]"


class Shape(Protocol):
    """The differences between the two kinds of answer."""

    @property
    def prefix(self) -> str:
        """Of an answer's id."""
        ...

    @property
    def whole(self) -> str:
        """What a whole answer is called."""
        ...

    @property
    def chunk(self) -> str:
        """What a part of one is called."""
        ...

    def first(self, index: int) -> dict[str, Any] | None:
        """A choice's first entry in a stream, before there is any text."""
        ...

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """A choice's entry in a chunk; `offset` is the length of the tokens' texts before."""
        ...

    def complete(self, choice: Choice) -> dict[str, Any]:
        """A choice's entry in a whole answer."""
        ...


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """/v1/completions."""

    echoes: bool = False  # the prompt comes before the text
    hides_special: bool = True
    has_logprobs: bool = True
    has_prompt_logprobs: bool = False
    prefix: ClassVar[str] = "cmpl"
    whole: ClassVar[str] = "text_completion"
    chunk: ClassVar[str] = "text_completion"

    def first(self, index: int) -> dict[str, Any] | None:
        return None

    def part(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "logprobs": columns(piece.logprobs, offset) if piece.logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def complete(self, choice: Choice) -> dict[str, Any]:
        text, tokens = "".join(choice.text), choice.logprobs
        if self.echoes:
            text, tokens = choice.prompt_text + text, choice.prompt + tokens
        entry = {
            "index": choice.index,
            "text": text,
            "logprobs": self._columns(tokens) if tokens and self.has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self.has_prompt_logprobs:
            entry["prompt_logprobs"] = ranked(choice.prompt)
        return entry

    def _columns(self, tokens: Sequence[TokenText]) -> dict[str, list[Any]]:
        return columns(tokens, 0, hides_special=self.hides_special)


@dataclass(frozen=True, slots=True)
class UsageWanted:
    """Where an answer tells its usage, and what of it."""

    at_end: bool = False  # of a stream; a whole answer tells it anyway
    in_events: bool = False
    has_prediction: bool = False

    @classmethod
    def by(cls, request: Generation) -> "UsageWanted":
        """Read it off a request."""
        options = request.stream_options or StreamOptions()
        return cls(
            at_end=options.include_usage,
            in_events=options.continuous_usage_stats,
            has_prediction=request.prediction is not None,
        )


@dataclass(frozen=True, slots=True)
class OpenAIFormat:
    """The answers of both routes."""

    shape: Shape
    usage: UsageWanted

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a finished answer."""
        entries = [self.shape.complete(choice) for choice in answer.choices]
        return self.wrap(answer, self.shape.whole, entries, **self.summary(answer))

    def stream(self, answer: Answer) -> "ChunkStream":
        """Return what writes the answer as a stream."""
        return ChunkStream(self, answer)

    def summary(self, answer: Answer) -> dict[str, Any]:
        """Usage and the figures of drafting, once all choices are finished."""
        return {
            "usage": _usage(Usage.of(answer), has_prediction=self.usage.has_prediction),
            "lookahead": speculation(answer),
        }

    def wrap(
        self, answer: Answer, kind: str, choices: Sequence[dict[str, Any]], **more: object
    ) -> dict[str, Any]:
        """Return entries of choices with the fields that all chunks of an answer share."""
        return {
            "id": f"{self.shape.prefix}-{answer.caller.request_id}",
            "object": kind,
            "created": answer.created,
            "model": answer.model,
            "system_fingerprint": answer.fingerprint,
            "choices": list(choices),
            **more,
        }


class ChunkStream:
    """Chunks, each with a piece of one choice."""

    def __init__(self, form: OpenAIFormat, answer: Answer) -> None:
        self._format = form
        self._shape = form.shape
        self._answer = answer
        self._offsets = [0] * len(answer.choices)

    def begin(self, choice: Choice) -> Iterable[Event]:
        """What a choice begins with, before there is any text."""
        first = self._shape.first(choice.index)
        if first is not None:
            yield self._chunk([first])

    def add(self, choice: Choice, piece: Piece) -> Iterable[Event]:
        """What a piece adds to its choice."""
        offset = self._offsets[choice.index]
        if self._is_worth_sending(piece):
            entry = self._shape.part(choice.index, piece, offset)
            yield self._chunk([entry], **self._step(piece), **self._usage_so_far())
        self._offsets[choice.index] += sum(len(token.text) for token in piece.logprobs)

    def end(self) -> Iterable[Event]:
        """What follows the last piece of all choices."""
        if self._format.usage.at_end:
            yield self._chunk([], **self._format.summary(self._answer))
        yield Event(DONE)

    def fail(self, error: ApiError) -> Iterable[Event]:
        """What ends a stream that fails."""
        yield Event(error.body())

    def _chunk(self, choices: Sequence[dict[str, Any]], **more: object) -> Event:
        return Event(self._format.wrap(self._answer, self._shape.chunk, choices, **more))

    def _is_worth_sending(self, piece: Piece) -> bool:
        """Whether a client sees anything in it; text may be held back for a step."""
        news = (piece.text, piece.reasoning, piece.calls, piece.logprobs, piece.finish_reason)
        return bool(any(news) or self._answer.request.shows_drafts)

    def _usage_so_far(self) -> dict[str, Any]:
        if not self._format.usage.in_events:
            return {}
        return {"usage": _usage(Usage.so_far(self._answer), has_prediction=False)}

    def _step(self, piece: Piece) -> dict[str, Any]:
        if piece.tokens is None or not self._answer.request.shows_drafts:
            return {}
        return {"lookahead": _step(piece.tokens)}


def _usage(found: Usage, *, has_prediction: bool) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": found.num_prompt_tokens,
        "completion_tokens": found.num_output_tokens,
        "total_tokens": found.num_prompt_tokens + found.num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": found.num_cached_tokens},
    }
    details: dict[str, int] = {}
    if found.num_reasoning_tokens:
        details["reasoning_tokens"] = found.num_reasoning_tokens
    if has_prediction:
        # Tokens drafted from the request itself, of which the prediction is a part.
        details["accepted_prediction_tokens"] = found.num_local_tokens
    if details:
        usage["completion_tokens_details"] = details
    return usage


def _step(tokens: pb.Tokens) -> dict[str, Any]:
    """Return the `lookahead` field of a chunk, for requests with `draft_trees`."""
    return {
        "first_index": tokens.first_index,
        "text": tokens.text,  # as it was written, before it is taken apart
        "token_ids": list(tokens.token_ids),
        "num_drafted": tokens.num_drafted,
        "drafted_text_len": tokens.drafted_text_len,
        "draft_sources": list(source_names(tokens.draft_sources)),
        "draft_tree": _tree(tokens.draft_tree) if tokens.HasField("draft_tree") else None,
    }


def _tree(tree: pb.DraftTree) -> dict[str, Any]:
    rounded = [round(probability, 4) for probability in tree.probabilities]
    return asdict(to_draft_tree(tree)) | {"probabilities": rounded}
