"""Drafts from a replica of the memory in the verifier's own process: without a hop or a wait.

The replica is a drafter's, by the drafter's settings (LOOKAHEAD_DRAFTER_…): the same code over the
same log in Redis, so what is learned here reaches the drafters, and what they learn comes here. The
memory follows the log on the event loop; the engine's thread drafts from it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from drafter.api.turn_budget import TOKENS_PER_TURN
from drafter.api.validation import checked_space
from drafter.config import DrafterConfig
from drafter.drafting.session import Prepared, prepare
from drafter.drafting.sessions import DraftSessions
from drafter.drafting.successors import full_rows
from drafter.drafting.turns import Turn
from drafter.kernels.dispatch import dispatch
from drafter.kernels.record import MAX_NODES
from drafter.memory.memory import SharedMemory
from drafter.server import build
from embedded.forest import Forest
from rpc.errors import InvalidRequest
from verifier.request import Speculation
from verifier.speculation.draft_source import Successors
from verifier.speculation.tree import EMPTY_TREE, DraftTree

COMPILE_S = 60.0


@dataclass(slots=True)
class _Live:
    """A sequence, and what its session knows of it."""

    token_ids: list[int]  # prompt and output, shared with the sequence, read only
    speculation: Speculation
    space: str
    num_told: int
    preparing: "Future[Prepared] | None" = None  # a long prompt is indexed elsewhere
    is_open: bool = False
    num_drafted: int = 0  # nodes of the last tree, until the next tokens are told
    num_verified: int = 0
    successors: Successors = None


class EmbeddedDrafts:
    """The `DraftSource` of an engine in the same process."""

    num_deadline_misses = 0

    def __init__(self, *, vocabulary: str, vocabulary_size: int) -> None:
        self.num_replies = self.num_invalid = 0
        self.is_connected = self.has_news = False
        self._vocabulary, self._vocabulary_size = vocabulary, vocabulary_size
        self._live: dict[int, _Live] = {}
        self._forest = Forest()
        self._indexing = ThreadPoolExecutor(1, thread_name_prefix="indexing")
        self._starting: asyncio.Task[None] | None = None
        self._call_memory: Callable[..., object]
        self.sessions: DraftSessions
        self.memory: SharedMemory

    # --- on the event loop

    def start(self, wake: Callable[[], object] = lambda: None) -> None:
        """Follow the log in the background; OSError where the drafter's settings do not work."""
        dispatch.compile_in_background()
        self._call_memory = asyncio.get_running_loop().call_soon_threadsafe
        try:
            self.sessions, self.memory = build(DrafterConfig(), self._call_memory)
        except ValueError as error:
            raise OSError(f"embedded drafter: {error}") from error
        self._starting = asyncio.create_task(self.memory.start(), name="embedded memory")
        self.is_connected = True

    async def stop(self) -> None:
        """Send what was learned, and end."""
        self._indexing.shutdown(cancel_futures=True)
        if self._starting is None:
            return
        await self._starting
        await self.memory.stop()
        # A process must not end under its compiler's feet.
        await asyncio.to_thread(dispatch.is_compiled, COMPILE_S)

    # --- in the engine's thread

    def open(
        self,
        sequence_id: int,
        token_ids: list[int],
        num_prompt: int,
        speculation: Speculation,
        traceparent: str = "",
    ) -> None:
        """Follow a sequence; a long one is indexed in a thread, and has no drafts until then."""
        try:
            space = checked_space(self._vocabulary, speculation.namespace)
        except InvalidRequest:
            return  # no drafter remembers anything under such a name
        self._call_memory(self.memory.load, space)
        live = _Live(token_ids, speculation, space, num_told=len(token_ids))
        self._live[sequence_id] = live
        index = partial(prepare, prediction=speculation.prediction, num_prompt=num_prompt)
        if len(token_ids) + len(speculation.prediction) <= TOKENS_PER_TURN:
            self._adopt(sequence_id, live, index(token_ids))
        else:
            live.preparing = self._indexing.submit(index, token_ids.copy())

    def close(self, sequence_id: int, *, learn: bool) -> None:
        """Stop following a sequence; what `token_ids` has lost since it was told is not learned."""
        live = self._live.pop(sequence_id, None)
        if live is None or not self._is_open(sequence_id, live):
            return
        if not learn:
            self.sessions.drop(sequence_id)
            return
        self.sessions.take_turns([self._turn(sequence_id, live)])
        num_taken_back = live.num_told - len(live.token_ids)
        self.sessions.close(sequence_id, num_taken_back=num_taken_back)

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        live = self._live.get(sequence_id)
        if live is not None and live.is_open:
            live.num_verified, live.successors = num_verified, successors
            self.has_news = True

    def request(self, wanted: dict[int, int]) -> None:
        """Tell what was emitted, and draft trees of at most so many nodes, now."""
        self.num_replies += bool(wanted)
        self.has_news = False
        turns = [
            self._turn(sequence_id, live, wanted.get(sequence_id, 0))
            for sequence_id, live in self._live.items()
            if self._is_open(sequence_id, live)
        ]
        drafted = self.sessions.take_turns(turns)
        self._forest = Forest.of(turns, drafted)
        for turn, count in zip(turns, drafted.counts, strict=True):
            if turn.max_nodes:
                self._live[turn.sequence_id].num_drafted = count

    def wait(self, deadline_s: float) -> None:
        """Trees are always there."""

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the tree that was drafted after the last step."""
        live = self._live.get(sequence_id)
        if live is None or live.num_told < len(live.token_ids):
            return EMPTY_TREE
        tree = self._forest.take(sequence_id)
        # The log is shared, and may hold what is no token here.
        if tree and max(tree.token_ids) >= self._vocabulary_size:
            self.num_invalid += 1
            return EMPTY_TREE
        return tree

    def _is_open(self, sequence_id: int, live: _Live) -> bool:
        if live.preparing is not None and live.preparing.done():
            self._adopt(sequence_id, live, live.preparing.result())
            live.preparing = None
        return live.is_open

    def _adopt(self, sequence_id: int, live: _Live, prepared: Prepared) -> None:
        learn = live.speculation.learn
        self.sessions.adopt(sequence_id, prepared, space=live.space, learn=learn)
        live.is_open = True

    def _turn(self, sequence_id: int, live: _Live, max_nodes: int = 0) -> Turn:
        """What was emitted since the last turn, with what is known of it."""
        news = live.token_ids[live.num_told :]
        turn = Turn(sequence_id, news, max_nodes=min(max_nodes, MAX_NODES))
        if news:
            turn.num_verified = min(live.num_verified, live.num_drafted)
            if live.successors is not None and len(live.successors) == len(news):
                turn.successors = full_rows(live.successors)
            live.num_told = len(live.token_ids)
            live.num_drafted = live.num_verified = 0
            live.successors = None
        return turn
