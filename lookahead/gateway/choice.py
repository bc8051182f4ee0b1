"""One choice of an answer: the text and the tokens of its generation so far."""

import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace

from lookahead.client.responses import source_names
from lookahead.gateway.errors import ApiError
from lookahead.gateway.tokens.texts import TokenText, TokenTexts
from lookahead.gateway.verifiers import GenerationCall
from protos import verifier_pb2 as pb
from rpc.errors import RETRY_AFTER_S

REASONS = {pb.Finished.FINISH_REASON_STOP: "stop", pb.Finished.FINISH_REASON_LENGTH: "length"}


@dataclass(slots=True)
class ToolCall:
    """A call that the choice makes, as far as it is written."""

    index: int
    name: str
    key: str = field(default_factory=lambda: secrets.token_hex(12))  # ids are made of it
    arguments: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CallPart:
    """What a message adds to a call."""

    call: ToolCall
    arguments: str
    is_first: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """The part that one message of the stream adds."""

    text: str = ""  # what is said
    reasoning: str = ""  # what is thought
    calls: tuple[CallPart, ...] = ()
    tokens: pb.Tokens | None = None  # None with the last piece
    logprobs: tuple[TokenText, ...] = ()
    finish_reason: str | None = None  # with the last piece only


@dataclass(slots=True)
class Choice:
    """A running or finished generation."""

    index: int
    generating: GenerationCall
    has_parts: bool  # whether its text is taken apart
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenText] = field(default_factory=list)
    prompt: list[TokenText] = field(default_factory=list)  # if its log probabilities were asked for
    prompt_text: str = ""  # in that case
    num_tokens: int = 0
    first_time: float | None = None  # monotonic, of the first tokens
    finished: pb.Finished | None = None
    num_accepted: dict[str, int] = field(default_factory=dict)  # drafted tokens by their source

    @property
    def finish_reason(self) -> str:
        """Why it ended: stop, length or tool_calls."""
        assert self.finished is not None, "only a finished choice has a reason"
        reason = REASONS[self.finished.reason]
        return "tool_calls" if self.calls and reason == "stop" else reason

    async def pieces(self, texts: TokenTexts) -> AsyncIterator[Piece]:
        """Yield the parts as they come, and count them."""
        async for response in self.generating.events():
            event = response.WhichOneof("event")
            if event == "finished":
                yield self._end(response.finished)
            elif event == "prompt":
                read = response.prompt
                self.prompt += await texts.of_logprobs(read.token_ids, read.logprobs)
            else:
                yield await self._piece(response.tokens, texts)

    async def _piece(self, tokens: pb.Tokens, texts: TokenTexts) -> Piece:
        if self.first_time is None:
            self.first_time = time.monotonic()
        self.num_tokens += len(tokens.token_ids)
        for name in source_names(tokens.draft_sources):
            self.num_accepted[name] = self.num_accepted.get(name, 0) + 1
        logprobs: tuple[TokenText, ...] = ()
        if tokens.logprobs:
            logprobs = await texts.of_logprobs(tokens.token_ids, tokens.logprobs)
        self.logprobs.extend(logprobs)
        piece = self._take(tokens.text, tokens.parts)
        return replace(piece, tokens=tokens, logprobs=logprobs)

    def _end(self, finished: pb.Finished) -> Piece:
        if finished.reason not in REASONS:
            message = "the verifier shut down before the answer was complete"
            code = "verifier_unavailable"
            raise ApiError(
                503, "unavailable_error", message, code=code, retry_after_s=RETRY_AFTER_S
            )
        self.finished = finished
        piece = self._take(finished.text, finished.parts)
        return replace(piece, finish_reason=self.finish_reason)

    def _take(self, text: str, parts: Iterable[pb.MessagePart]) -> Piece:
        """Add what a message brings."""
        said, thought, calls = [] if self.has_parts else [text], list[str](), list[CallPart]()
        for part in parts:
            if part.kind == pb.MessagePart.KIND_TOOL_CALL:
                calls.append(self._add_to_call(part))
            elif part.kind == pb.MessagePart.KIND_REASONING:
                thought.append(part.text)
            else:
                said.append(part.text)
        self.text += said
        self.reasoning += thought
        return Piece("".join(said), "".join(thought), tuple(calls))

    def _add_to_call(self, part: pb.MessagePart) -> CallPart:
        is_first = part.call_index == len(self.calls)
        if is_first:
            self.calls.append(ToolCall(part.call_index, part.tool_name))
        call = self.calls[part.call_index]
        call.arguments.append(part.text)
        return CallPart(call, part.text, is_first)
