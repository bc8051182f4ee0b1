"""The protocol of one replica of one space: apply the log in order, once; notice when it cannot.

State is a pure function of (base, cursor): the base snapshot and every entry up to the cursor, in
log order. Everything here works on any Log; nothing here knows Redis.
"""

import uuid
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from drafter.entry import EntryError, decode
from drafter.shared_log import Lease, Log, Page
from drafter.snapshot import ZERO, EntryId, Position
from drafter.store import Store, TokenTrie
from drafter.token_run import TokenRun
from drafter.transfer import SnapshotTransfer, parse_pointer

# Dedupe remembers this many (producer, boot) pairs, the latest in log order, the same everywhere.
MAX_PRODUCERS = 1024


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """When to write snapshots, how large one may be, how long to wait for a better one."""

    snapshot_tokens: int = 200_000
    snapshot_growth: float = 0.25
    max_snapshot_bytes: int = 4 << 30
    patience_s: float = 3.0


@dataclass(slots=True)
class Counts:
    """What a replica has seen so far."""

    entries: int = 0
    tokens: int = 0
    duplicates: int = 0
    holes: int = 0
    skipped: int = 0
    snapshots: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Replica:
    """One space as this process holds it. `poll` and `snapshot` may run side by side."""

    def __init__(
        self,
        space: str,
        store: Store,
        log: Log,
        *,
        limits: ReplicaLimits,
        now: Callable[[], float],
        offload: Callable[..., Awaitable[Any]],
        breathe: Callable[[], Awaitable[None]],
        waiting: Callable[[], list[TokenRun]],
        forgotten: Callable[[], None],
    ) -> None:
        self.space = space
        self.counts = Counts()
        self.resyncs: Counter[str] = Counter()
        self.synced = False
        self.base = ""
        self.cursor = ZERO
        self.caught_up_at: float | None = None
        self._check = 0
        self._producers: dict[tuple[bytes, int], int] = {}
        self.trie = store.build(None)
        self._store, self._log, self._limits = store, log, limits
        self._now, self._offload, self._breathe = now, offload, breathe
        self._waiting = waiting  # own runs that are not in the log yet
        self._forgotten = forgotten  # called when the space was emptied by somebody else
        self._transfer = SnapshotTransfer(
            space, store, log, offload=offload, max_len=limits.max_snapshot_bytes
        )
        self._pointer: bytes | None = None
        self._birth: str | None = None
        self._stranded_at: float | None = None
        self._num_tokens = 0
        self._wanted = False
        # Drafts are made from this one while Redis is away: the trie plus what waits for Redis.
        self._ahead: TokenTrie | None = None
        # Raised by whatever replaces the state under a running poll.
        self._era = 0
        self.rolled_back_at: float | None = None
        store.place(space, self.trie)

    @property
    def ahead(self) -> bool:
        """Tell whether runs are applied that are not in the log yet."""
        return self._ahead is not None

    async def poll(self) -> int:
        """Read once and apply; return how many entries were applied. Resyncs where it must."""
        era = self._era
        page = await self._log.read(self.space, self.cursor)
        if era != self._era:
            return 0
        reason = self._examine(page)
        if reason is not None:
            self.resyncs[reason] += self.synced or not self.resyncs
            self.synced = False
            await self._resync(page)
            return 0
        self._note(page)
        fresh = page.entries if self.cursor == ZERO else page.entries[1:]
        if not fresh:
            self.caught_up_at = self._now()
            if self.ahead and not self._waiting():
                self.roll_back()
        for entry_id, data in fresh:
            self._apply(entry_id, data)
            await self._breathe()
            if era != self._era:
                return 0
        return len(fresh)

    async def go_ahead(self) -> None:
        """Draft from a copy that has also learned what waits, until the log moves on."""
        era, cursor, trie = self._era, self.cursor, self.trie
        copy = await self._offload(self._store.build, trie.export())
        if (era, cursor, trie) == (self._era, self.cursor, self.trie) and self._ahead is None:
            for run in self._waiting():
                copy.learn(run)
            self._ahead = copy
            self._store.place(self.space, copy)

    def learn_ahead(self, run: TokenRun) -> None:
        """Let the copy learn one more run."""
        if self._ahead is not None:
            self._ahead.learn(run)

    def roll_back(self) -> None:
        """Draft from the trie at the cursor again."""
        if self._ahead is not None:
            self._ahead = None
            self.rolled_back_at = self._now()
            self._store.place(self.space, self.trie)

    def forget(self) -> None:
        """Forget everything here, as the owner of the space wishes."""
        self._store.forget(self.space)
        self._clear()

    def position(self) -> Position:
        """Say where in which history the state stands."""
        producers = tuple((key[0].hex(), key[1], last) for key, last in self._producers.items())
        return Position(self.base, self.cursor, self._check, producers, self._num_tokens)

    def where(self) -> str:
        """Name the position: equal names mean equal tries."""
        return f"{self.base[:12] or 'root'}:{self.cursor[0]}-{self.cursor[1]}"

    def snapshot_age_s(self) -> float | None:
        """Return how far the newest snapshot lies behind the cursor in time; None without one."""
        pointer = parse_pointer(self._pointer)
        if pointer is None or not pointer.generations:
            return None
        return max(0.0, (self.cursor[0] - pointer.newest.covered[0]) / 1000)

    def snapshot_due(self) -> bool:
        """Tell whether enough was applied, or somebody asked."""
        if not self.synced or self.ahead or self.cursor == ZERO:
            return False
        pointer = parse_pointer(self._pointer)
        covered = pointer.newest.num_tokens if pointer else 0
        grown = int(self._limits.snapshot_growth * self.trie.num_tokens)
        enough = max(self._limits.snapshot_tokens, grown)
        return self._wanted or self._num_tokens - covered >= enough

    async def snapshot(self) -> bool:
        """Write the state at the cursor as the newest generation, unless somebody else does."""
        lease = await self._log.acquire(self.space)
        if lease is None or not self.synced or self.ahead:
            return False
        old = parse_pointer(self._pointer)
        if old and old.newest.covered > self.cursor:
            return False
        return await self._upload(lease, self.position(), self._pointer)

    def _examine(self, page: Page) -> str | None:
        """Return why the state cannot simply go on from the cursor, or None."""
        if not self.synced:
            return "start"
        pointer = parse_pointer(page.pointer)
        if (pointer.base if pointer else "") != self.base:
            return "base"
        if self.cursor == ZERO:
            return "gap" if pointer and pointer.generations[-1].covered > ZERO else None
        first = page.entries[0] if page.entries else (ZERO, b"")
        # Trimming and failover both show here: the cursor's own entry is gone, or is another.
        return None if (first[0], zlib.crc32(first[1])) == (self.cursor, self._check) else "moved"

    def _note(self, page: Page) -> None:
        self._wanted = page.wanted
        self._pointer = page.pointer

    def _apply(self, entry_id: EntryId, data: bytes) -> None:
        self.roll_back()
        self.cursor, self._check = entry_id, zlib.crc32(data)
        self.counts.entries += 1
        try:
            entry = decode(data)
        except EntryError:
            self.counts.skipped += 1
            return
        key = entry.producer, entry.boot_epoch
        last = self._producers.get(key)
        if last is not None and entry.sequence <= last:
            self.counts.duplicates += 1
            return
        # A hole is an entry that Redis lost; every reader misses it alike, so the tries agree.
        self.counts.holes += last is not None and entry.sequence > last + 1
        self._producers.pop(key, None)
        self._producers[key] = entry.sequence
        if len(self._producers) > MAX_PRODUCERS:
            del self._producers[next(iter(self._producers))]
        for run in entry.runs:
            self.trie.learn(run)
        self.counts.tokens += entry.num_tokens
        self._num_tokens += entry.num_tokens

    async def _resync(self, page: Page) -> None:
        """Go to what Redis holds; where Redis lost everything, give it what this replica holds."""
        self.roll_back()
        if page.pointer is None:
            await self._resync_without_pointer()
            return
        pointer = parse_pointer(page.pointer)
        for generation in pointer.generations if pointer else ():
            era = self._era
            loaded = await self._transfer.load(generation)
            if era != self._era:
                return
            if loaded:
                self._stand_at(*loaded)
                await self._synced(page.pointer)
                return
        await self._strand(page)

    async def _resync_without_pointer(self) -> None:
        birth, era = await self._log.birth(), self._era
        lost = self._birth is not None and birth != self._birth
        if lost and self.trie.num_tokens:
            await self._reseed(None)
            return
        oldest = (await self._log.read(self.space, ZERO)).entries[:1]
        if era != self._era:
            return
        if self.cursor > ZERO and (not oldest or oldest[0][0] > self.cursor):
            self._forgotten()
            self._store.forget(self.space)
        self._clear()
        await self._synced(None)

    async def _strand(self, page: Page) -> None:
        """No generation can be loaded: ask for a new one, then found a history on what is left."""
        await self._log.want_snapshot(self.space)
        if self._stranded_at is None:
            self._stranded_at = self._now()
        if self._now() - self._stranded_at >= self._limits.patience_s:
            self._clear()
            await self._reseed(page.pointer)

    async def _reseed(self, expected: bytes | None) -> None:
        """Make this replica's state the base that all others start from."""
        lease = await self._log.acquire(self.space)
        if lease is None:
            return
        self.roll_back()
        # The whole log that is left comes on top; what it shares with the base counts as seen.
        position = replace(self.position(), base=uuid.uuid4().hex, cursor=ZERO, check=0)
        await self._upload(lease, position, expected)

    async def _synced(self, pointer: bytes | None) -> None:
        self._birth = await self._log.birth()
        self._pointer = pointer
        self._stranded_at = None
        self.synced = True

    async def _upload(self, lease: Lease, position: Position, expected: bytes | None) -> bool:
        done = await self._transfer.upload(lease, position, self.trie.export(), expected)
        self.counts.snapshots += done
        return done

    def _clear(self) -> None:
        """Stand at the beginning with nothing; the next poll starts over."""
        self._era += 1
        self._stand_at(Position("", ZERO, 0, (), 0), self._store.build(None))
        self.synced = False

    def _stand_at(self, position: Position, trie: TokenTrie) -> None:
        self.base, self.cursor, self._check = position.base, position.cursor, position.check
        self._num_tokens = position.num_tokens
        self._producers = {
            (bytes.fromhex(name), boot): last for name, boot, last in position.producers
        }
        self.trie, self._ahead = trie, None
        self._store.place(self.space, trie)
