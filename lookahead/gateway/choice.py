"""One choice of an answer: the text and tokens of its generation so far."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from lookahead.client.responses import source_names
from lookahead.gateway.errors import ApiError
from lookahead.gateway.token_texts import TokenText, TokenTexts
from lookahead.gateway.verifiers import GenerationCall
from protos import verifier_pb2 as pb
from rpc.errors import RETRY_AFTER_S

REASONS = {pb.Finished.FINISH_REASON_STOP: "stop", pb.Finished.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Piece:
    """The part that one message of the stream adds."""

    text: str
    tokens: pb.Tokens | None = None  # None with the last piece
    logprobs: tuple[TokenText, ...] = ()
    finish_reason: str | None = None  # with the last piece only


@dataclass(slots=True)
class Choice:
    """A running or finished generation."""

    index: int
    generating: GenerationCall
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenText] = field(default_factory=list)
    first_time: float | None = None  # monotonic, of the first tokens
    finished: pb.Finished | None = None
    num_accepted: dict[str, int] = field(default_factory=dict)  # drafted tokens by their source

    async def pieces(self, texts: TokenTexts) -> AsyncIterator[Piece]:
        """Yield the parts as they come, and count them."""
        async for response in self.generating.events():
            if response.WhichOneof("event") == "finished":
                yield self._end(response.finished)
            else:
                yield await self._piece(response.tokens, texts)

    async def _piece(self, tokens: pb.Tokens, texts: TokenTexts) -> Piece:
        if self.first_time is None:
            self.first_time = time.monotonic()
        for name in source_names(tokens.draft_sources):
            self.num_accepted[name] = self.num_accepted.get(name, 0) + 1
        logprobs = await texts.of_logprobs(tokens) if tokens.logprobs else ()
        self.text.append(tokens.text)
        self.logprobs.extend(logprobs)
        return Piece(tokens.text, tokens, logprobs)

    def _end(self, finished: pb.Finished) -> Piece:
        if finished.reason not in REASONS:
            message = "the verifier shut down before the answer was complete"
            code = "verifier_unavailable"
            raise ApiError(
                503, "unavailable_error", message, code=code, retry_after_s=RETRY_AFTER_S
            )
        self.finished = finished
        self.text.append(finished.text)
        return Piece(finished.text, finish_reason=REASONS[finished.reason])
