"""The drafter's four rpcs: protobuf messages on one side, sessions and their memory on the other.

Everything runs on the event loop, whose thread owns the sessions; whatever takes more than a few
milliseconds is cut into pieces or, where it touches nothing shared, done in a thread.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from drafter.api.stream import DraftStream, LiveTokens
from drafter.api.turn_budget import TOKENS_PER_TURN, TurnBudget
from drafter.api.validation import (
    MAX_RUN_TOKENS,
    checked_prefix,
    checked_run,
    checked_space,
    split_space,
)
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import SharedMemory
from drafter.trie.token_run import TokenRun
from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc.errors import InvalidRequest, Unavailable
from rpc.metrics import LOOKUP_S, Histogram
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

NAME = "lookahead.v1.DrafterService"
# Learn waits while more than this is on its way to the log, but not for ever.
MAX_WAITING_BYTES = 8 << 20
MAX_WAIT_S = 10.0
POLL_S = 0.02


class DrafterService(pb_grpc.DrafterServiceServicer):
    """Serves all streams of this process from one DraftSessions."""

    def __init__(
        self,
        sessions: DraftSessions,
        memory: SharedMemory,
        *,
        max_live_tokens: int = 8 << 20,
        tracer: Tracer | None = None,
    ) -> None:
        self.lookup_s = Histogram(LOOKUP_S)
        self._tracer = tracer
        self._sessions = sessions
        self._memory = memory
        self._live_tokens = LiveTokens(max_live_tokens)
        self._session_ids = itertools.count()

    async def Draft(
        self,
        request_iterator: AsyncIterator[pb.DraftRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[pb.DraftResponse]:
        stream = DraftStream(
            self._sessions,
            self._memory,
            self._live_tokens,
            self._session_ids,
            self.lookup_s,
            self._tracer,
        )
        # Asked now: once the call is gone, asking crashes the process.
        peer, started = context.peer(), time.monotonic()
        try:
            async for request in request_iterator:
                yield await stream.answer(request)
        finally:
            # Reached however the stream ends: half-closed, cancelled, broken or refused.
            stream.release()
            _log_end(stream, peer, time.monotonic() - started)

    async def Learn(
        self,
        request_iterator: AsyncIterator[pb.LearnRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.LearnResponse:
        learned = pb.LearnResponse()
        turn = TurnBudget()
        async for request in request_iterator:
            space = checked_space(request.vocabulary, request.namespace)
            run = await checked_run(request.token_ids, "token_ids", MAX_RUN_TOKENS, turn)
            if len(run) == 0:
                raise InvalidRequest.at("token_ids", "must hold at least one id")
            await self._learn(space, run, turn)
            learned.num_runs += 1
            learned.num_tokens += len(run)
        logger.info("learned runs=%d tokens=%d", learned.num_runs, learned.num_tokens)
        return learned

    async def Forget(
        self, request: pb.ForgetRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ForgetResponse:
        space = checked_space(request.vocabulary, request.namespace)
        try:
            num_tokens = await self._memory.forget(space)
        except ConnectionError as error:
            raise Unavailable(
                f"forgotten here only: the shared memory cannot be reached ({error})"
            ) from error
        logger.info("forgot space=%s tokens=%d", space, num_tokens)
        return pb.ForgetResponse(num_tokens=num_tokens)

    async def DescribeNamespaces(
        self,
        request: pb.DescribeNamespacesRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.DescribeNamespacesResponse:
        prefix = checked_prefix(request.prefix, "prefix")
        response = pb.DescribeNamespacesResponse()
        for space in self._memory.spaces():
            vocabulary, namespace = split_space(space)
            status = self._memory.describe(space) if namespace.startswith(prefix) else None
            if status is None:
                continue
            position, digest = await self._memory.digest(space)
            response.namespaces.add(
                vocabulary=vocabulary,
                namespace=namespace,
                num_tokens=status.num_tokens,
                num_bytes=status.num_bytes,
                digest=digest,
                log_position=position,
                lag_entries=status.lag_entries,
                lag_s=status.lag_s,
            )
        return response

    async def _learn(self, space: str, run: TokenRun, turn: TurnBudget) -> None:
        """Learn a run in pieces, no faster than the log takes it."""
        for start in range(0, len(run), TOKENS_PER_TURN):
            piece = run[start : start + TOKENS_PER_TURN]
            self._memory.append(space, piece)
            await turn.spend(len(piece))
        waited_s = 0.0
        while self._memory.waiting_bytes > MAX_WAITING_BYTES:
            if waited_s >= MAX_WAIT_S:
                raise Unavailable("Redis does not accept writes")
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S


def _log_end(stream: DraftStream, peer: str, seconds: float) -> None:
    counts = stream.counts
    logger.info(
        "stream_ended peer=%s seconds=%.3f steps=%d sequences=%d tokens=%d drafts=%d nodes=%d",
        peer,
        seconds,
        counts.steps,
        counts.sequences,
        counts.tokens,
        counts.drafts,
        counts.nodes,
    )
