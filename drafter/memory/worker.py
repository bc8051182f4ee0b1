"""One space's part in the background work: follow its log, send what waits, write snapshots."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drafter.log.protocol import WrongType
from drafter.memory.outbox import Outbox
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.status import SpaceStatus
from drafter.memory.tombstones import Tombstones
from drafter.memory.turns import end
from drafter.runtime import EventLoop
from drafter.trie.store import Store

if TYPE_CHECKING:  # redis takes a tenth of a second to import, and a drafter may have none
    from drafter.log.redis_log import RedisLog

logger = logging.getLogger(__name__)

# After so many reads or entries a turn ends, for others wait for theirs.
_ROUNDS = 16
_SNAPSHOT_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class MemberTimes:
    """How long to wait for what."""

    backoff_s: float = 0.05  # before the first retry, doubling
    max_backoff_s: float = 0.5
    ahead_after_s: float = 1.0  # runs may wait this long before drafts see them anyway
    ahead_pause_s: float = 30.0  # between two copies made for that


class SpaceWorker:
    """Drives a replica and a part of the outbox, a turn at a time."""

    def __init__(
        self,
        space: str,
        store: Store,
        log: "RedisLog",
        outbox: Outbox,
        tombstones: Tombstones,
        *,
        limits: ReplicaLimits,
        times: MemberTimes,
        reachable: Callable[[], bool],
        snapshots: asyncio.Semaphore,
        again: Callable[[float], None],  # asks for another turn, after some seconds
    ) -> None:
        self._space, self._store, self._log = space, store, log
        self._outbox, self._times = outbox, times
        self._reachable, self._snapshots, self._again = reachable, snapshots, again
        self._loop = asyncio.get_running_loop()
        self.replica = Replica(
            space,
            store,
            log,
            EventLoop(),
            limits=limits,
            waiting=lambda: outbox.waiting(space),
            forgotten=lambda: outbox.discard(space),
            tombstones=tombstones,
        )
        self._failures = self._send_failures = 0
        self._blocked_at: float | None = None
        self._due_since: float | None = None
        self._snapshot: asyncio.Task[None] | None = None
        self._other_limit: int | None = None

    async def stop(self) -> None:
        """End the snapshot that is being written."""
        await end([self._snapshot] if self._snapshot else [])

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._snapshot is not None and not self._snapshot.done()

    @property
    def num_bytes(self) -> int:
        """Memory of the space, a copy that is ahead of the log included."""
        held = self._store.num_bytes(self._space)
        return held + (self.replica.trie.num_bytes if self.replica.ahead else 0)

    def due(self) -> None:
        """Note that there may be something to read."""
        if self._due_since is None:
            self._due_since = self._loop.time()

    def status(self, heard_at: float | None) -> SpaceStatus:
        """Describe the space as this replica holds it; news of it were read up to `heard_at`."""
        replica = self.replica
        known = [at for at in (heard_at, self._due_since) if at is not None]
        return SpaceStatus(
            space=self._space,
            num_tokens=replica.trie.num_tokens,
            num_bytes=self.num_bytes,
            position=replica.history.name(),
            synced=replica.synced,
            ahead=replica.ahead,
            lag_entries=replica.lag.entries,
            lag_s=replica.lag.seconds(self._loop.time(), min(known) if heard_at else None),
            snapshot_age_s=replica.snapshot_age_s(),
            trouble=replica.trouble,
            other_limit=replica.other_limit(),
        )

    async def turn(self) -> float | None:
        """Take a turn; return after how many seconds the next is due, None where nothing is."""
        pause_s = await self._try()
        await self._go_ahead_if_blocked()
        return pause_s

    async def _try(self) -> float | None:
        if not self._reachable():
            self._note_blocked()
            runs_unseen = self._outbox.has(self._space) and not self.replica.ahead
            return self._times.max_backoff_s if runs_unseen else None
        try:
            pause_s = await self._work()
            self._failures = 0
            return pause_s
        except ConnectionError:
            self._note_blocked()
        except Exception:
            logger.exception("following failed space=%s", self._space)
        self._failures += 1
        return self._backoff_s(self._failures)

    async def _work(self) -> float | None:
        """Apply what is new, send what waits, and apply that too."""
        for _ in range(_ROUNDS):
            began = self._loop.time()
            await self.replica.poll()
            self._warn_of_other_limit()
            self._start_snapshot_if_due()
            # What this replica believes to be pending may belong to a past that was forgotten.
            if not self.replica.synced:
                return self._times.backoff_s
            if (self.replica.lag.caught_up_at or 0.0) < began:
                continue
            if self._due_since is not None and self._due_since <= began:
                self._due_since = None
            if not self._outbox.has(self._space):
                self._blocked_at = None
                return None
            await self._send()
        return 0.0

    async def _send(self) -> None:
        try:
            await self._log.append(self._space, self._outbox.take(self._space))
        except ConnectionError as error:
            self._send_failures += 1
            # Once per outage; a server that is full shows in no other line.
            level = logging.WARNING if self._send_failures == 1 else logging.DEBUG
            logger.log(level, "append failed space=%s: %s", self._space, error)
            if isinstance(error, WrongType):
                await self.replica.repair(str(error))
            raise
        self._outbox.acknowledge(self._space)
        self._send_failures, self._blocked_at = 0, None

    def _warn_of_other_limit(self) -> None:
        limit, self._other_limit = self._other_limit, self.replica.other_limit()
        if self._other_limit not in (None, limit):
            logger.warning(
                "max_namespace_bytes differs between drafters: full tries will not agree, "
                "and snapshots hold what the smaller one keeps space=%s other=%d",
                self._space,
                self._other_limit,
            )

    def _note_blocked(self) -> None:
        if self._blocked_at is None:
            self._blocked_at = self._loop.time()

    async def _go_ahead_if_blocked(self) -> None:
        """Let drafts see own runs that cannot reach the log; rarely, for it copies the trie."""
        now, replica = self._loop.time(), self.replica
        if self._blocked_at is None or now - self._blocked_at < self._times.ahead_after_s:
            return
        recent = replica.rolled_back_at
        paused = recent is not None and now - recent < self._times.ahead_pause_s
        if not replica.ahead and not paused and self._outbox.has(self._space):
            await replica.go_ahead()

    def _start_snapshot_if_due(self) -> None:
        if not self.busy and self.replica.snapshot_due():
            self._snapshot = self._loop.create_task(
                self._write_snapshot(), name=f"snapshot {self._space}"
            )

    async def _write_snapshot(self) -> None:
        async with self._snapshots:
            try:
                done = await self.replica.snapshot()
                logger.info("snapshot space=%s written=%s", self._space, done)
            except ConnectionError as error:
                logger.info("snapshot failed space=%s: %s", self._space, error)
        if self.replica.snapshot_due():
            # Somebody else writes it, or Redis has no room: ask again later.
            self._again(_SNAPSHOT_PAUSE_S)

    def _backoff_s(self, failures: int) -> float:
        longest = self._times.backoff_s * 2.0 ** min(failures - 1, 10)
        return min(longest, self._times.max_backoff_s) * random.uniform(0.5, 1.0)
