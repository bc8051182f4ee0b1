"""One Draft stream: the sequences of one engine, and what happens to them with each request.

A request is checked whole before any of it is applied: openings, observations and closings, in this
order, so that a sequence's last tokens may travel beside its close. Then come the drafts.
"""

import itertools
import time
from dataclasses import dataclass, field

from drafter.api.requests import (
    Observation,
    Opening,
    checked_observation,
    checked_opening,
)
from drafter.api.turn_budget import DRAFT_COST, DRAFTS_PER_CALL, OPEN_COST, TurnBudget
from drafter.api.validation import checked_number
from drafter.drafting.sessions import DraftSessions
from drafter.drafting.successors import as_rows
from drafter.drafting.turns import Turn
from drafter.memory.memory import SharedMemory
from protos import drafter_pb2 as pb
from rpc.errors import InvalidRequest, ResourceExhausted
from rpc.metrics import Histogram
from rpc.tracing import Span, Tracer

MAX_SEQUENCES = 4096
# What an open sequence costs before its first token, counted in tokens.
SEQUENCE_COST = 1024


@dataclass(slots=True)
class LiveTokens:
    """How many tokens all open sequences hold, on all streams."""

    limit: int
    num_tokens: int = 0

    def take(self, num_tokens: int) -> None:
        """Count tokens in, unless that exceeds the limit."""
        if self.num_tokens + num_tokens > self.limit:
            raise ResourceExhausted(
                f"open sequences hold {self.num_tokens} of at most {self.limit} tokens"
            )
        self.num_tokens += num_tokens

    def give(self, num_tokens: int) -> None:
        """Count tokens out."""
        self.num_tokens -= num_tokens


@dataclass(slots=True)
class _Live:
    """A sequence of this stream."""

    session_id: int
    num_tokens: int
    charge: int  # what it counts for in LiveTokens
    num_drafted: int = 0  # nodes of the last tree sent
    num_drafts: int = 0
    span: Span | None = None


@dataclass(slots=True)
class StreamCounts:
    """What a stream has done so far."""

    steps: int = 0
    sequences: int = 0
    drafts: int = 0
    nodes: int = 0
    tokens: int = 0


@dataclass(slots=True)
class DraftStream:
    """Answers the requests of one stream, one after the other; `release` ends it."""

    sessions: DraftSessions
    memory: SharedMemory
    live_tokens: LiveTokens
    session_ids: "itertools.count[int]"  # shared by all streams
    lookup_s: Histogram  # of all streams
    tracer: Tracer | None = None
    counts: StreamCounts = field(default_factory=StreamCounts)
    _live: dict[int, _Live] = field(default_factory=dict)
    _last_step: int = -1

    async def answer(self, request: pb.DraftRequest) -> pb.DraftResponse:
        """Apply one request; ServiceError where it is bad, and then nothing of it was applied."""
        turn = TurnBudget()
        self._check_step(request)
        charge = self._charge(request)
        self.live_tokens.take(charge)
        try:
            observations = self._checked_observations(request)
            openings = await self._checked_openings(request, turn)
        except BaseException:
            self.live_tokens.give(charge)
            raise
        for opening in openings:
            self.memory.load(opening.space)
        response = pb.DraftResponse(step=request.step)
        wanted = self._apply(openings, observations, response)
        for close in request.close:
            self._close(close)
        drafting = [(i, n) for i, n in wanted.items() if n and i in self._live]
        for start in range(0, len(drafting), DRAFTS_PER_CALL):
            some = drafting[start : start + DRAFTS_PER_CALL]
            await turn.spend(DRAFT_COST * len(some))
            self._draft(some, response)
        return response

    def release(self) -> None:
        """Drop all sequences of this stream; nothing is learned from them."""
        for sequence_id in list(self._live):
            self.sessions.drop(self._forget(sequence_id).session_id)

    # --- checking

    def _check_step(self, request: pb.DraftRequest) -> None:
        if request.step <= self._last_step:
            raise InvalidRequest.at("step", f"must exceed {self._last_step}", request.step)
        if len(self._live) + len(request.open) > MAX_SEQUENCES:
            raise InvalidRequest.at(
                "open",
                f"{len(self._live)} sequences are open, at most {MAX_SEQUENCES} may be",
                len(request.open),
            )

    def _charge(self, request: pb.DraftRequest) -> int:
        known = {*self._live, *(message.sequence_id for message in request.open)}
        opened = sum(SEQUENCE_COST + len(o.token_ids) + len(o.prediction) for o in request.open)
        return opened + sum(len(o.token_ids) for o in request.observe if o.sequence_id in known)

    async def _checked_openings(self, request: pb.DraftRequest, turn: TurnBudget) -> list[Opening]:
        openings: dict[int, Opening] = {}
        for index, message in enumerate(request.open):
            path = f"open[{index}]."
            if message.sequence_id in self._live or message.sequence_id in openings:
                raise InvalidRequest.at(
                    path + "sequence_id", "is open already", message.sequence_id
                )
            await turn.spend(OPEN_COST)
            openings[message.sequence_id] = await checked_opening(message, path, turn)
        return list(openings.values())

    def _checked_observations(self, request: pb.DraftRequest) -> list[Observation]:
        opened = {message.sequence_id for message in request.open}
        seen: set[int] = set()
        observations = []
        for index, message in enumerate(request.observe):
            path = f"observe[{index}]."
            if message.sequence_id in seen:
                raise InvalidRequest.at(path + "sequence_id", "named twice", message.sequence_id)
            seen.add(message.sequence_id)
            live = self._live.get(message.sequence_id)
            observation = checked_observation(message, path)
            if live is not None or message.sequence_id in opened:
                most = live.num_drafted if live else 0
                checked_number(message.num_verified, path + "num_verified", most)
            observations.append(observation)
        return observations

    # --- applying: nothing below fails, and nothing waits before all is applied

    def _apply(
        self,
        openings: list[Opening],
        observations: list[Observation],
        response: pb.DraftResponse,
    ) -> dict[int, int]:
        """Open and observe; return how many nodes each sequence wants."""
        self._last_step = response.step
        self.counts.steps += 1
        wanted: dict[int, int] = {}
        for opening in openings:
            self._open(opening)
            wanted[opening.sequence_id] = opening.max_nodes
        known = [each for each in observations if each.sequence_id in self._live]
        self._observe([each for each in known if len(each.token_ids)])
        wanted |= {each.sequence_id: each.max_nodes for each in known}
        response.unknown_sequence_ids.extend(
            each.sequence_id for each in observations if each.sequence_id not in self._live
        )
        return wanted

    def _open(self, opening: Opening) -> None:
        session_id = next(self.session_ids)
        self.sessions.adopt(session_id, opening.prepared, space=opening.space, learn=opening.learn)
        self._live[opening.sequence_id] = _Live(
            session_id,
            opening.num_tokens,
            SEQUENCE_COST + opening.num_indexed,
            span=self._follow(opening.traceparent),
        )
        self.counts.sequences += 1

    def _observe(self, observations: list[Observation]) -> None:
        self.sessions.take_turns([self._turn(observation) for observation in observations])
        for observation in observations:
            live, num_tokens = self._live[observation.sequence_id], len(observation.token_ids)
            live.num_tokens += num_tokens
            live.charge += num_tokens
            live.num_drafted = 0
            self.counts.tokens += num_tokens

    def _turn(self, observation: Observation) -> Turn:
        return Turn(
            self._live[observation.sequence_id].session_id,
            observation.token_ids.tolist(),
            observation.num_verified,
            as_rows(observation.successors, len(observation.token_ids)),
        )

    def _close(self, close: pb.Close) -> None:
        if close.sequence_id not in self._live:
            return  # closing twice is closing
        live = self._forget(close.sequence_id)
        if close.learn:
            self.sessions.close(live.session_id)
        else:
            self.sessions.drop(live.session_id)

    def _forget(self, sequence_id: int) -> _Live:
        live = self._live.pop(sequence_id)
        self.live_tokens.give(live.charge)
        if live.span is not None:
            counts = {"lookahead.drafts": live.num_drafts, "lookahead.tokens": live.num_tokens}
            live.span.end(counts)
        return live

    def _follow(self, traceparent: str) -> Span | None:
        """Start the span of a sequence's life here, where its request is traced."""
        if self.tracer is None or not traceparent:
            return None
        return self.tracer.follow("draft", traceparent)

    def _draft(self, wanted: list[tuple[int, int]], response: pb.DraftResponse) -> None:
        started = time.perf_counter()
        lives = [self._live[sequence_id] for sequence_id, _ in wanted]
        turns = [
            Turn(live.session_id, max_nodes=max_nodes)
            for live, (_, max_nodes) in zip(lives, wanted, strict=True)
        ]
        drafted = self.sessions.take_turns(turns)
        each_s = (time.perf_counter() - started) / len(wanted)
        for index, (live, (sequence_id, _)) in enumerate(zip(lives, wanted, strict=True)):
            self.lookup_s.observe(each_s)
            tree = drafted.tree(index)
            live.num_drafted = len(tree)
            live.num_drafts += 1
            self.counts.drafts += 1
            self.counts.nodes += len(tree)
            response.drafts.add(
                sequence_id=sequence_id,
                committed_len=live.num_tokens,
                token_ids=tree.token_ids.tolist(),
                parents=tree.parents.tolist(),
                probabilities=tree.probabilities.tolist(),
                sources=tree.sources.tolist(),
            )
