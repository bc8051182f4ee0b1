"""Drafters' memories over real tries, as the tests of the shared memory use them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from drafter.drafting.session_store import SessionStore
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import MemoryLimits, SharedMemory
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.worker import MemberTimes
from drafter.trie.token_run import TokenRun
from tests.support.memory.trie_index import holds
from tests.support.waiting import eventually

SPACE = "vocabulary/namespace"
MAX_BYTES = 16 << 20
RUN_LEN = 50
FAST = MemoryLimits(
    replica=ReplicaLimits(snapshot_tokens=2_000, snapshot_growth=0.1, patience_s=0.5),
    times=MemberTimes(ahead_after_s=0.3, ahead_pause_s=0.5),
)


class Peer:
    """One drafter's sessions and memory."""

    def __init__(
        self, url: str | None, limits: MemoryLimits = FAST, max_bytes: int = MAX_BYTES
    ) -> None:
        self.sessions = DraftSessions(max_namespace_bytes=max_bytes)
        store = SessionStore(self.sessions, max_namespace_bytes=max_bytes)
        self.memory = SharedMemory(store, redis_url=url, limits=limits)

    def replica(self, space: str = SPACE) -> Replica:
        return self.memory.replica(space)

    def digest(self, space: str = SPACE) -> str:
        trie = self.memory._trie(space)
        return trie.digest() if trie else ""

    def position(self, space: str = SPACE) -> str:
        found = self.memory.describe(space)
        return found.position if found else ""

    def knows(self, run: TokenRun, space: str = SPACE) -> bool:
        """Tell whether drafts in this space can be made from the run."""
        return holds(self.sessions.trie(space), run)

    async def synced(self, space: str = SPACE, timeout_s: float = 10.0) -> "Peer":
        await eventually(lambda: self.replica(space).synced, timeout_s)
        return self


@asynccontextmanager
async def peers(
    url: str | None, number: int = 2, *, limits: MemoryLimits = FAST, spaces: tuple[str, ...] = ()
) -> AsyncIterator[list[Peer]]:
    """Start memories that have begun to load the spaces, and stop them."""
    found = [Peer(url, limits) for _ in range(number)]
    try:
        for peer in found:
            await peer.memory.start()
            for space in spaces or (SPACE,):
                peer.memory.load(space)
        yield found
    finally:
        for peer in found:
            await peer.memory.stop()


def some_run(seed: int, length: int = RUN_LEN) -> TokenRun:
    """Return ids that no other seed gives in this order."""
    return np.random.default_rng(seed).integers(0, 200_000, length, dtype=np.int32)


def agree(group: list[Peer], num_runs: int, space: str = SPACE) -> bool:
    """Tell whether all hold this many runs, from one place in the log, with one digest."""
    statuses = [p.memory.status() for p in group]
    if any(s.outbox_runs or any(held.ahead for held in s.spaces) for s in statuses):
        return False
    if any(p.replica(space).trie.num_tokens != num_runs * (RUN_LEN + 1) for p in group):
        return False
    return len({(p.position(space), p.digest(space)) for p in group}) == 1
