"""Reads what one space comes to, taking no part: nothing is learned, written or announced."""

import asyncio

from drafter.log.protocol import Lease
from drafter.log.redis_log import RedisLog
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.tombstones import Tombstones
from drafter.runtime import EventLoop
from drafter.trie.snapshot import Position
from drafter.trie.store import Store, TokenTrie

_PAUSE_S = 0.05


class ReaderLog(RedisLog):
    """A log of which this process never holds the lease."""

    async def acquire(self, space: str) -> Lease | None:
        """Refuse: what a reader holds must not become the base of others."""
        return None


async def read_space(
    redis_url: str, space: str, store: Store, timeout_s: float
) -> tuple[Position, TokenTrie]:
    """Follow a space up to the end of its log.

    ConnectionError where Redis does not answer; TimeoutError where no snapshot of it can be read
    and no drafter writes another.
    """
    log = ReaderLog(redis_url)
    replica = Replica(
        space,
        store,
        log,
        EventLoop(),
        limits=ReplicaLimits(),
        waiting=list,
        forgotten=lambda: None,
        tombstones=Tombstones(),
    )
    try:
        async with asyncio.timeout(timeout_s):
            while not await _reached_end(replica):
                await asyncio.sleep(0.0 if replica.synced else _PAUSE_S)
    finally:
        await log.close()
    return replica.history.position(), replica.trie


async def _reached_end(replica: Replica) -> bool:
    """Read once; tell whether the log's end was reached, though more may be appended meanwhile."""
    was_synced, resyncs = replica.synced, replica.resyncs.total()
    await replica.poll()
    is_steady = was_synced and replica.synced and replica.resyncs.total() == resyncs
    return is_steady and replica.lag.entries == 0
