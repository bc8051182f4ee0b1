"""What a drafter process remembers: tries that follow the shared log, or live alone without one.

Nothing here is on the way of a draft: `append` queues, everything else runs in background tasks.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drafter.memory.following import Done, Following
from drafter.memory.local import LocalMemory
from drafter.memory.outbox import Outbox
from drafter.memory.quota import LearnQuota
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.room import Resident, RoomLimits, make_room, tenant_of
from drafter.memory.status import MemoryStatus, SpaceStatus
from drafter.memory.turns import end, going_on
from drafter.memory.worker import MemberTimes
from drafter.trie.snapshot import digest
from drafter.trie.store import Store, TokenTrie
from drafter.trie.token_run import TokenRun, as_run
from rpc.contract import problem_with_name

if TYPE_CHECKING:
    from drafter.log.redis_log import RedisLog

logger = logging.getLogger(__name__)
_SHRINK_S = 1.0
_FLUSH_S = 1.0
# So many new spaces are not waited for until room is made.
_MAX_NEW = 256
# What a space takes beside what it has learned.
_SPACE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bounds of the shared memory in this process and in Redis."""

    room: RoomLimits = field(default_factory=RoomLimits)
    max_outbox_runs: int = 100_000
    max_outbox_bytes: int = 64 << 20
    tenant_learn_tokens: int | None = None  # a minute
    ttl_s: int | None = None  # an idle space is forgotten after this
    replica: ReplicaLimits = field(default_factory=ReplicaLimits)
    times: MemberTimes = field(default_factory=MemberTimes)


class SharedMemory:
    """Holds the spaces in use, and puts idle ones away. One event loop owns it."""

    def __init__(
        self,
        store: Store,
        *,
        redis_url: str | None = None,
        producer: bytes | None = None,
        limits: MemoryLimits | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """`lock`: held while a space is put away, where another thread may begin to use it."""
        self._store, self._limits = store, limits or MemoryLimits()
        self._lock = lock or nullcontext()
        self._url = redis_url
        self._outbox = Outbox(
            producer or uuid.uuid4().bytes,
            time.time_ns(),
            max_runs=self._limits.max_outbox_runs,
            max_bytes=self._limits.max_outbox_bytes,
        )
        self._quota = LearnQuota(self._limits.tenant_learn_tokens)
        self._following = self._follow_log(redis_url) if redis_url else None
        self._local: dict[str, LocalMemory] = {}
        self._used_at: dict[str, float] = {}
        self._num_new = 0
        self._unloaded = 0
        self._shrinking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return at once; connects in the background, however long that takes."""
        where = _describe(self._url) if self._url else "none, memory dies with the process"
        logger.info("shared memory log=%s", where)
        if self._following is not None:
            self._following.start()
        self._shrinking = asyncio.create_task(self._keep_within(), name="memory limit")

    async def stop(self) -> None:
        """Send what waits, for at most a second, and end all tasks."""
        deadline = time.monotonic() + _FLUSH_S
        while self._outbox.spaces() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for local in self._local.values():
            local.stop()
        if self._shrinking is not None:
            await end([self._shrinking])
        if self._following is not None:
            await self._following.stop()
            await self._following.close()

    def append(self, space: str, token_ids: Sequence[int] | TokenRun) -> bool:
        """Learn a finished run, here and on all replicas; never waits.

        False where its tenant has learned too much of late; then it is not learned.
        """
        run = as_run("token_ids", token_ids)
        self._use(space)
        if not len(run):
            return True
        if not self._quota.take(tenant_of(space), len(run)):
            return False
        if self._following is None:
            self._local[space].learn(run)
        else:
            self._outbox.add(space, run)
            self._following.wake(space, run)
        return True

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
        if space in self._local:
            self._store.forget(space)
            self._local[space].forget()
        if self._following is not None:
            await self._following.forget(_checked(space))
        return num_tokens

    def spaces(self) -> list[str]:
        """Name the spaces in memory."""
        return sorted(self._used_at)

    def describe(self, space: str) -> SpaceStatus | None:
        """Describe a space if it is in memory."""
        if self._following is not None:
            return self._following.describe(space)
        local = self._local.get(space)
        if local is None:
            return None
        return SpaceStatus(space, local.trie.num_tokens, self._num_bytes(space))

    def replica(self, space: str) -> Replica:
        """Return the replica of a space that follows the log; KeyError where there is none."""
        if self._following is None:
            raise KeyError(f"space: {space!r} follows no log")
        return self._following.members[space].replica

    async def digest(self, space: str) -> tuple[str, str]:
        """Return a space's position and the digest there; hashes in a thread."""
        status, trie = self.describe(space), self._trie(space)
        if status is None or trie is None:
            raise KeyError(f"space: {space!r} is not in memory")
        return status.position, await asyncio.to_thread(digest, trie.export())

    @property
    def reaches_others(self) -> bool:
        """Whether there is a log, and it answered lately."""
        return self._following is not None and self._following.connected

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the runs that are not learned yet, by the log or here."""
        return self._outbox.num_bytes + sum(x.waiting_bytes for x in self._local.values())

    def status(self) -> MemoryStatus:
        """Count; cheap enough for every second."""
        done = self._following.counted() if self._following else Done()
        counts = done.counts
        spaces = [status for space in self.spaces() if (status := self.describe(space))]
        return MemoryStatus(
            shared=self._following is not None,
            connected=self.reaches_others,
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
            refused_tokens=self._quota.refused_tokens,
            resyncs=dict(done.resyncs),
            repairs=dict(done.repairs),
        )

    def _follow_log(self, redis_url: str) -> Following:
        return Following(
            _open_log(redis_url, self._limits.ttl_s),
            self._store,
            self._outbox,
            limits=self._limits.replica,
            times=self._limits.times,
            emptied=self._watch_forgotten,
        )

    def _watch_forgotten(self, spaces: set[str]) -> None:
        for space in spaces:
            self._use(space)

    def _use(self, space: str) -> None:
        """Note that a space is in use, and follow it if it is not followed yet."""
        if space not in self._used_at:
            self._begin(_checked(space))
        self._used_at[space] = time.monotonic()

    def _begin(self, space: str) -> None:
        self._num_new += 1
        if self._num_new >= _MAX_NEW:
            self._shrink()
        if self._following is None:
            self._local[space] = LocalMemory(space, self._store)
        else:
            self._following.follow(space)

    def _trie(self, space: str) -> TokenTrie | None:
        if self._following is not None:
            return self._following.trie(space)
        local = self._local.get(space)
        return local.trie if local else None

    def _num_bytes(self, space: str) -> int:
        if self._following is not None:
            return self._following.members[space].num_bytes
        return self._store.num_bytes(space) + self._local[space].waiting_bytes

    async def _keep_within(self) -> None:
        """Once a second, see that memory is within its limits."""
        while going_on():
            try:
                self._shrink()
            except Exception:
                logger.exception("making room failed")
            await asyncio.sleep(_SHRINK_S)

    def _shrink(self) -> None:
        self._num_new = 0
        make_room(self._residents(), self._limits.room, self._put_away)

    def _residents(self) -> Iterator[Resident]:
        for space, used_at in self._used_at.items():
            num_bytes = self._num_bytes(space) + _SPACE_BYTES
            yield Resident(space, num_bytes, used_at, self._outbox.has(space))

    def _put_away(self, space: str) -> bool:
        """Let go of a space that nobody uses; it comes back from the log when it is used again."""
        with self._lock:
            if self._store.in_use(space):
                return False
            if self._following is not None and not self._following.leave(space):
                return False
            local = self._local.pop(space, None)
            if local is not None:
                local.stop()
            self._store.unload(space)
        self._outbox.leave(space)
        self._unloaded += 1
        del self._used_at[space]
        return True


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
