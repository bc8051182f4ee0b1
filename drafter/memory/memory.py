"""What a drafter process remembers: tries that follow the shared log, or live alone without one.

Nothing here is on the way of a draft: `append` queues, everything else runs in background tasks.
"""

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drafter.memory.local import LocalMemory
from drafter.memory.outbox import Outbox
from drafter.memory.replica import ReplicaLimits
from drafter.memory.status import MemoryStatus, SpaceStatus
from drafter.memory.tombstones import Tombstones, forget_in_log
from drafter.memory.worker import MemberTimes, SpaceWorker, end, going_on
from drafter.trie.snapshot import digest
from drafter.trie.store import Store, TokenTrie
from drafter.trie.token_run import TokenRun, as_run
from rpc.contract import problem_with_name

if TYPE_CHECKING:
    from drafter.log.redis_log import RedisLog

logger = logging.getLogger(__name__)
_MONITOR_S = 1.0
_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bounds of the shared memory in this process and in Redis."""

    max_bytes: int = 1 << 30  # tries of all spaces together
    max_outbox_runs: int = 100_000
    max_outbox_bytes: int = 64 << 20
    ttl_s: int | None = None  # an idle space is forgotten after this
    replica: ReplicaLimits = field(default_factory=ReplicaLimits)
    times: MemberTimes = field(default_factory=MemberTimes)


class SharedMemory:
    """Follows and feeds the log of each space in use. One event loop owns it."""

    def __init__(
        self,
        store: Store,
        *,
        redis_url: str | None = None,
        producer: bytes | None = None,
        limits: MemoryLimits | None = None,
    ) -> None:
        self._store, self._limits = store, limits or MemoryLimits()
        self._log = _open_log(redis_url, self._limits.ttl_s) if redis_url else None
        self._url = redis_url
        self._outbox = Outbox(
            producer or uuid.uuid4().bytes,
            time.time_ns(),
            max_runs=self._limits.max_outbox_runs,
            max_bytes=self._limits.max_outbox_bytes,
        )
        self._members: dict[str, SpaceWorker] = {}
        self._local: dict[str, LocalMemory] = {}
        self._used_at: dict[str, float] = {}
        self._tombstones = Tombstones()
        self._instance_id = ""
        self._unloaded = 0
        self._connected = False
        self._last_error = ""
        # Of spaces that were unloaded.
        self._past_counts: Counter[str] = Counter()
        self._past_resyncs: Counter[str] = Counter()
        self._monitor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return at once; connects in the background, however long that takes."""
        where = _describe(self._url) if self._url else "none, memory dies with the process"
        logger.info("shared memory log=%s", where)
        self._monitor = asyncio.create_task(self._watch(), name="memory monitor")

    async def stop(self) -> None:
        """Send what waits, for at most a second, and end all tasks."""
        deadline = time.monotonic() + _FLUSH_S
        while self._outbox.spaces() and self._log and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for local in self._local.values():
            local.stop()
        await asyncio.gather(*(member.stop() for member in self._members.values()))
        if self._monitor is not None:
            await end([self._monitor])
        if self._log is not None:
            try:
                await self._log.close()
            except ConnectionError as error:
                logger.info("closing the log: %s", error)

    def append(self, space: str, token_ids: Sequence[int] | TokenRun) -> None:
        """Learn a finished run, here and on all replicas; never waits."""
        run = as_run("token_ids", token_ids)
        self._use(space)
        if not len(run):
            return
        if self._log is None:
            self._local[space].learn(run)
            return
        self._outbox.add(space, run)
        self._members[space].wake(run)

    def load(self, space: str) -> None:
        """Begin to follow a space, in the background."""
        self._use(space)

    async def forget(self, space: str) -> int:
        """Forget a space here and everywhere; return how many tokens were held here.

        ConnectionError when Redis could not be told: then it may be forgotten here only for now.
        """
        trie = self._trie(space)
        num_tokens = trie.num_tokens if trie else 0
        self._outbox.discard(space)
        if space in self._members:
            self._members[space].replica.forget()
        elif space in self._local:
            self._store.forget(space)
            self._local[space].forget()
        if self._log is not None:
            await forget_in_log(self._log, _checked(space), self._tombstones)
        return num_tokens

    def spaces(self) -> list[str]:
        """Name the spaces in memory."""
        return sorted(self._used_at)

    def describe(self, space: str) -> SpaceStatus | None:
        """Describe a space if it is in memory."""
        trie, member = self._trie(space), self._members.get(space)
        if trie is None:
            return None
        if member is not None:
            return member.status()
        return SpaceStatus(space, trie.num_tokens, trie.num_bytes)

    async def digest(self, space: str) -> tuple[str, str]:
        """Return a space's position and the digest there; hashes in a thread."""
        status, trie = self.describe(space), self._trie(space)
        if status is None or trie is None:
            raise KeyError(f"space: {space!r} is not in memory")
        return status.position, await asyncio.to_thread(digest, trie.export())

    @property
    def reaches_others(self) -> bool:
        """Whether there is a log, and it answered lately."""
        return self._log is not None and self._connected

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the runs that are not learned yet, by the log or here."""
        return self._outbox.num_bytes + sum(x.waiting_bytes for x in self._local.values())

    def status(self) -> MemoryStatus:
        """Count; cheap enough for every second."""
        counts, resyncs = self._past_counts.copy(), self._past_resyncs.copy()
        for member in self._members.values():
            counts.update(member.replica.history.counts.as_dict())
            resyncs.update(member.replica.resyncs)
        spaces = [status for space in self.spaces() if (status := self.describe(space))]
        return MemoryStatus(
            shared=self._log is not None,
            connected=self._connected,
            spaces=tuple(spaces),
            num_bytes=sum(space.num_bytes for space in spaces),
            num_tokens=sum(space.num_tokens for space in spaces),
            outbox_runs=self._outbox.num_runs,
            outbox_bytes=self._outbox.num_bytes,
            outbox_dropped=self._outbox.dropped,
            oldest_waiting_s=self._outbox.oldest_s(),
            applied_tokens=counts["tokens"],
            duplicates=counts["duplicates"],
            holes=counts["holes"],
            skipped=counts["skipped"],
            snapshots=counts["snapshots"],
            unloaded=self._unloaded,
            resyncs=dict(resyncs),
        )

    def _use(self, space: str) -> None:
        """Note that a space is in use, and follow it if it is not followed yet."""
        if space not in self._used_at:
            self._follow(_checked(space))
        self._used_at[space] = time.monotonic()

    def _follow(self, space: str) -> None:
        if self._log is None:
            self._local[space] = LocalMemory(space, self._store)
            return
        member = SpaceWorker(
            space,
            self._store,
            self._log,
            self._outbox,
            self._tombstones,
            limits=self._limits.replica,
            times=self._limits.times,
        )
        self._members[space] = member
        member.start()

    def _trie(self, space: str) -> TokenTrie | None:
        member, local = self._members.get(space), self._local.get(space)
        if member is not None:
            return member.replica.trie
        return local.trie if local else None

    def _num_bytes(self) -> int:
        tries = [self._trie(space) for space in self._used_at]
        return sum(trie.num_bytes for trie in tries if trie)

    async def _watch(self) -> None:
        """Once a second: is Redis there, is memory within its limit."""
        while going_on():
            try:
                if self._log is not None:
                    await self._greet(self._log)
                await self._shrink()
            except Exception:
                logger.exception("watching the memory failed")
            await asyncio.sleep(_MONITOR_S)

    async def _greet(self, log: "RedisLog") -> None:
        try:
            self._meet(await log.instance_id())
            if not self._connected:
                logger.info("shared memory connected")
            self._connected, self._last_error = True, ""
        except ConnectionError as error:
            if self._connected or not self._last_error:
                logger.warning("shared memory unreachable: %s", error)
            self._connected, self._last_error = False, str(error)

    def _meet(self, instance_id: str) -> None:
        """In a Redis that lost everything, look after the spaces that were forgotten."""
        if self._instance_id and instance_id != self._instance_id:
            for space in self._tombstones.spaces():
                self._use(space)
        self._instance_id = instance_id

    async def _shrink(self) -> None:
        """Unload the spaces that nobody used for longest, until the rest fits."""
        for space in sorted(self._used_at, key=self._used_at.__getitem__):
            if self._num_bytes() <= self._limits.max_bytes:
                return
            if self._outbox.has(space) or not self._store.unload(space):
                continue
            self._unloaded += 1
            del self._used_at[space]
            local, member = self._local.pop(space, None), self._members.pop(space, None)
            if local is not None:
                local.stop()
            if member is not None:
                self._past_counts.update(member.replica.history.counts.as_dict())
                self._past_resyncs.update(member.replica.resyncs)
                await member.stop()


def _checked(space: str) -> str:
    vocabulary, slash, namespace = space.partition("/")
    if not slash:
        raise ValueError(f"space: {space!r} is not VOCABULARY/NAMESPACE")
    for part, name in (("vocabulary", vocabulary), ("namespace", namespace)):
        if problem := problem_with_name(name):
            raise ValueError(f"space: the {part} {problem}, got {name!r}")
    return space


def _open_log(url: str, ttl_s: int | None) -> "RedisLog":
    """Import the client only where there is a log: it takes a quarter of the time to start."""
    from drafter.log.redis_log import RedisLog

    return RedisLog(url, ttl_s=ttl_s)


def _describe(url: str) -> str:
    from drafter.log.connection import describe

    return describe(url)
