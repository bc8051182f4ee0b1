"""Drafts from a replica of the memory in the verifier's own process: without a hop or a wait.

The replica is a drafter's, by the drafter's settings (LOOKAHEAD_DRAFTER_…): the same code over the
same log in Redis, so what is learned here reaches the drafters, and what they learn comes here. All
of it runs on the engine's event loop, after a step's tokens are out.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from drafter.api.turn_budget import TOKENS_PER_TURN
from drafter.api.validation import checked_space
from drafter.config import DrafterConfig
from drafter.drafting.sessions import DraftSessions, Prepared, prepare
from drafter.kernels.dispatch import dispatch
from drafter.memory.memory import SharedMemory
from drafter.server import build
from rpc.errors import InvalidRequest
from verifier.request import Speculation
from verifier.speculation.tree import EMPTY_TREE, DraftTree, InvalidTree, checked_tree

COMPILE_S = 60.0


@dataclass(slots=True)
class _Live:
    """A sequence, and what its session knows of it."""

    token_ids: list[int]  # prompt and output, shared with the sequence, read only
    speculation: Speculation
    space: str
    num_told: int
    is_open: bool = False
    num_drafted: int = 0  # nodes of the last tree, until the next tokens are told
    tree: DraftTree = EMPTY_TREE


class EmbeddedDrafts:
    """The `DraftSource` of an engine in the same process."""

    num_deadline_misses = 0

    def __init__(self, *, vocabulary: str, vocabulary_size: int) -> None:
        self.num_replies = self.num_invalid = 0
        self.is_connected = False
        self._vocabulary, self._vocabulary_size = vocabulary, vocabulary_size
        self._live: dict[int, _Live] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self.sessions: DraftSessions
        self.memory: SharedMemory

    def start(self) -> None:
        """Follow the log in the background; OSError where the drafter's settings do not work."""
        dispatch.compile_in_background()
        try:
            self.sessions, self.memory = build(DrafterConfig())
        except ValueError as error:
            raise OSError(f"embedded drafter: {error}") from error
        self._starting = asyncio.create_task(self.memory.start(), name="embedded memory")
        self.is_connected = True

    async def stop(self) -> None:
        """Send what was learned, and end."""
        if self._starting is None:
            return
        await self._starting
        await asyncio.gather(*self._opening, return_exceptions=True)
        await self.memory.stop()
        # A process must not end under its compiler's feet.
        await asyncio.to_thread(dispatch.is_compiled, COMPILE_S)

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
        self.memory.load(space)
        live = _Live(token_ids, speculation, space, num_told=len(token_ids))
        self._live[sequence_id] = live
        index = partial(prepare, prediction=speculation.prediction, num_prompt=num_prompt)
        if len(token_ids) + len(speculation.prediction) <= TOKENS_PER_TURN:
            self._adopt(sequence_id, live, index(token_ids))
            return

        async def open_later() -> None:
            prepared = await asyncio.to_thread(index, token_ids[: live.num_told])
            if self._live.get(sequence_id) is live:
                self._adopt(sequence_id, live, prepared)

        task = asyncio.create_task(open_later(), name="embedded opening")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def close(self, sequence_id: int, *, learn: bool) -> None:
        """Stop following a sequence."""
        live = self._live.pop(sequence_id, None)
        if live is None or not live.is_open:
            return
        if learn:
            self._tell(sequence_id, live, 0, ())
            self.sessions.close(sequence_id)
        else:
            self.sessions.drop(sequence_id)

    def observe(
        self, sequence_id: int, *, num_verified: int, successors: Sequence[Sequence[int]]
    ) -> None:
        """Learn what a step verified; the emitted tokens stand at the end of `token_ids`."""
        live = self._live.get(sequence_id)
        if live is not None and live.is_open:
            self._tell(sequence_id, live, num_verified, successors)

    def request(self, wanted: dict[int, int]) -> None:
        """Draft trees of at most so many nodes, now."""
        self.num_replies += bool(wanted)
        for sequence_id, max_nodes in wanted.items():
            live = self._live.get(sequence_id)
            if live is not None and live.is_open:
                self._draft(sequence_id, live, max_nodes)

    async def wait(self, deadline_s: float) -> None:
        """Trees are always there."""

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the tree that was drafted after the last step."""
        live = self._live.get(sequence_id)
        if live is None:
            return EMPTY_TREE
        tree, live.tree = live.tree, EMPTY_TREE
        return tree

    def _adopt(self, sequence_id: int, live: _Live, prepared: Prepared) -> None:
        learn = live.speculation.learn
        self.sessions.adopt(sequence_id, prepared, space=live.space, learn=learn)
        live.is_open = True
        self._tell(sequence_id, live, 0, ())

    def _tell(
        self, sequence_id: int, live: _Live, num_verified: int, successors: Sequence[Sequence[int]]
    ) -> None:
        news = live.token_ids[live.num_told :]
        if not news:
            return
        self.sessions.observe(
            sequence_id,
            news,
            num_verified=min(num_verified, live.num_drafted),
            successors=successors if len(successors) == len(news) else (),
        )
        live.num_told += len(news)
        live.num_drafted, live.tree = 0, EMPTY_TREE

    def _draft(self, sequence_id: int, live: _Live, max_nodes: int) -> None:
        drafted = self.sessions.propose(sequence_id, max_nodes)
        live.num_drafted = len(drafted)
        try:  # the log is shared, and may hold what is no token here
            live.tree = checked_tree(
                drafted.token_ids.tolist(),
                drafted.parents.tolist(),
                drafted.probabilities.tolist(),
                sources=drafted.sources.tolist(),
                vocabulary_size=self._vocabulary_size,
                max_nodes=max_nodes,
            )
        except InvalidTree:
            self.num_invalid += 1
            live.tree = EMPTY_TREE
