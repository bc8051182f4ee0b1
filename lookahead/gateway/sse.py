"""Sends an answer as server-sent events, no faster than the client reads."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookahead.client.errors import LookaheadError
from lookahead.client.responses import source_names, to_draft_tree
from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice, Piece
from lookahead.gateway.concurrency import ClientGone, all_or_none, unless_gone
from lookahead.gateway.errors import ApiError
from protos import verifier_pb2 as pb

logger = logging.getLogger(__name__)

DONE = "[DONE]"

Abort = Callable[[Scope], None]  # drops the connection of a request


class ClientTooSlow(Exception):
    """The client has not read for longer than allowed."""


class EventStream(Response):
    """The stream of one answer. When the stream ends for any reason, the answer ends."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, *, write_timeout_s: float, abort: Abort) -> None:
        # Proxies must pass each event on at once.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._answer = answer
        self._write_timeout_s = write_timeout_s
        self._abort = abort
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_all(send))
        except ClientGone:
            pass  # the generations end with the answer
        except ClientTooSlow:
            logger.warning("client_too_slow request_id=%s", scope["state"]["request_id"])
            self._abort(scope)
        finally:
            self._answer.close()

    async def _send_all(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await all_or_none(self._send_choice(send, c) for c in self._answer.choices)
            await self._send_summary(send)
            await self._send_event(send, DONE)
        except ApiError as error:
            await self._send_event(send, error.body())
        except LookaheadError as error:
            await self._send_event(send, self._answer.explained(error).body())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_choice(self, send: Send, choice: Choice) -> None:
        envelope, offset = self._answer.envelope, 0
        first = envelope.format.first(choice.index)
        if first is not None:
            await self._send_event(send, self._chunk([first]))
        async for piece in choice.pieces(self._answer.texts):
            if self._is_worth_sending(piece):
                entry = envelope.format.part(choice.index, piece, offset)
                await self._send_event(send, self._chunk([entry], **self._step(piece)))
            offset += sum(len(token.text) for token in piece.logprobs)

    async def _send_summary(self, send: Send) -> None:
        options = self._answer.request.stream_options
        if options is not None and options.include_usage:
            chunk = self._answer.envelope.chunk([], **self._answer.summary())
            await self._send_event(send, chunk)

    def _chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        return self._answer.envelope.chunk(choices, **more)

    def _is_worth_sending(self, piece: Piece) -> bool:
        """Whether a client sees anything in it; text may be held back for a step."""
        shows_steps = self._answer.request.lookahead.draft_trees
        return bool(piece.text or piece.logprobs or piece.finish_reason or shows_steps)

    def _step(self, piece: Piece) -> dict[str, Any]:
        if piece.tokens is None or not self._answer.request.lookahead.draft_trees:
            return {}
        return {"lookahead": _step(piece.tokens)}

    async def _send_event(self, send: Send, data: dict[str, Any] | str) -> None:
        text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
        body = f"data: {text}\n\n".encode()
        async with self._lock:
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    # Waits while the client has not read enough of what it got.
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except TimeoutError:
                raise ClientTooSlow from None


def _step(tokens: pb.Tokens) -> dict[str, Any]:
    """Return the `lookahead` field of a chunk, for requests with `draft_trees`."""
    return {
        "first_index": tokens.first_index,
        "token_ids": list(tokens.token_ids),
        "num_drafted": tokens.num_drafted,
        "drafted_text_len": tokens.drafted_text_len,
        "draft_sources": list(source_names(tokens.draft_sources)),
        "draft_tree": _tree(tokens.draft_tree) if tokens.HasField("draft_tree") else None,
    }


def _tree(tree: pb.DraftTree) -> dict[str, Any]:
    rounded = [round(probability, 4) for probability in tree.probabilities]
    return asdict(to_draft_tree(tree)) | {"probabilities": rounded}
