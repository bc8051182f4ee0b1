"""One space's background work: follow its log, send what waits, write snapshots when due."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drafter.memory.outbox import Outbox
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.status import SpaceStatus
from drafter.memory.tombstones import Tombstones
from drafter.runtime import EventLoop
from drafter.trie.store import Store
from drafter.trie.token_run import TokenRun

if TYPE_CHECKING:  # redis takes a tenth of a second to import, and a drafter may have none
    from drafter.log.redis_log import RedisLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemberTimes:
    """How long to wait for what."""

    backoff_s: float = 0.05  # before the first retry, doubling
    max_backoff_s: float = 0.5
    ahead_after_s: float = 1.0  # runs may wait this long before drafts see them anyway
    ahead_pause_s: float = 30.0  # between two copies made for that


class SpaceWorker:
    """Drives a replica and a part of the outbox with tasks of its own."""

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
    ) -> None:
        self._space, self._log, self._outbox, self._times = space, log, outbox, times
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
        self._pending = asyncio.Event()
        self._blocked_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._snapshot: asyncio.Task[None] | None = None
        self._other_limit: int | None = None

    def start(self) -> None:
        """Begin to follow and to send."""
        for work in (self._follow, self._send):
            name = f"{work.__name__} {self._space}"
            self._tasks.append(self._loop.create_task(work(), name=name))

    async def stop(self) -> None:
        """End all tasks."""
        await end(self._tasks + ([self._snapshot] if self._snapshot else []))

    def wake(self, run: TokenRun) -> None:
        """Send the run that was just queued."""
        self.replica.learn_ahead(run)
        self._pending.set()

    def status(self) -> SpaceStatus:
        """Describe the space as this replica holds it."""
        replica = self.replica
        return SpaceStatus(
            space=self._space,
            num_tokens=replica.trie.num_tokens,
            num_bytes=replica.trie.num_bytes,
            position=replica.history.name(),
            synced=replica.synced,
            ahead=replica.ahead,
            lag_entries=replica.lag.entries,
            lag_s=replica.lag.seconds(self._loop.time()),
            snapshot_age_s=replica.snapshot_age_s(),
            other_limit=replica.other_limit(),
        )

    async def _follow(self) -> None:
        failures = 0
        while going_on():
            try:
                failures = 0 if await self._follow_once() else failures
            except ConnectionError:
                failures += 1
                self._note_blocked()
            except Exception:
                logger.exception("following failed space=%s", self._space)
                failures += 1
            await self._go_ahead_if_blocked()
            if failures:
                await asyncio.sleep(self._backoff_s(failures))

    async def _follow_once(self) -> bool:
        """Apply what is new, then wait for more."""
        began = self._loop.time()
        await self.replica.poll()
        self._warn_of_other_limit()
        self._start_snapshot_if_due()
        if not self.replica.synced:
            await asyncio.sleep(self._times.backoff_s)
        elif (self.replica.lag.caught_up_at or 0.0) >= began:
            if not self._outbox.has(self._space):
                self._blocked_at = None
            await self._log.wait(self._space, self.replica.history.cursor)
        return True

    async def _send(self) -> None:
        failures = 0
        while going_on():
            await self._pending.wait()
            if not self._outbox.has(self._space):
                self._pending.clear()
                continue
            # What this replica believes to be pending may belong to a past that was forgotten.
            if not self.replica.synced:
                await asyncio.sleep(self._times.backoff_s)
                continue
            try:
                await self._log.append(self._space, self._outbox.take(self._space))
                self._outbox.acknowledge(self._space)
                failures, self._blocked_at = 0, None
            except ConnectionError as error:
                failures += 1
                self._note_blocked()
                # Once per outage; a server that is full shows in no other line.
                level = logging.WARNING if failures == 1 else logging.DEBUG
                logger.log(level, "append failed space=%s: %s", self._space, error)
                await asyncio.sleep(self._backoff_s(failures))

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
        running = self._snapshot is not None and not self._snapshot.done()
        if not running and self.replica.snapshot_due():
            self._snapshot = self._loop.create_task(
                self._write_snapshot(), name=f"snapshot {self._space}"
            )

    async def _write_snapshot(self) -> None:
        try:
            done = await self.replica.snapshot()
            logger.info("snapshot space=%s written=%s", self._space, done)
        except ConnectionError as error:
            logger.info("snapshot failed space=%s: %s", self._space, error)
        if not self.replica.snapshot_due():
            return
        # Somebody else writes it, or Redis has no room: ask again later.
        await asyncio.sleep(1.0)

    def _backoff_s(self, failures: int) -> float:
        longest = self._times.backoff_s * 2.0 ** min(failures - 1, 10)
        return min(longest, self._times.max_backoff_s) * random.uniform(0.5, 1.0)


def going_on() -> bool:
    """Tell whether this task may go on; some library calls swallow the exception that ends it."""
    task = asyncio.current_task()
    return task is None or not task.cancelling()


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are done."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)
