"""The protocol of one replica of one space: follow the log, and notice when it cannot go on.

Everything here works on any Log; nothing here knows Redis.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from drafter.log.protocol import Lease, Log, Page, WrongType
from drafter.memory.history import START, History
from drafter.memory.overlay import Overlay
from drafter.memory.status import Lag
from drafter.memory.tombstones import Tombstones, incarnation_in
from drafter.memory.transfer import SnapshotTransfer
from drafter.runtime import Runtime
from drafter.trie.snapshot import UNREADABLE, ZERO, Position, parse_pointer
from drafter.trie.store import Store, TokenTrie
from drafter.trie.token_run import TokenRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """When to write snapshots, how large one may be, how long to wait for a better one."""

    snapshot_tokens: int = 200_000
    snapshot_growth: float = 0.25
    max_snapshot_bytes: int = (4 << 26) + 64  # of the largest trie that there may be
    patience_s: float = 3.0


class Replica:
    """One space as this process holds it. `poll` and `snapshot` may run side by side."""

    def __init__(
        self,
        space: str,
        store: Store,
        log: Log,
        runtime: Runtime,
        *,
        limits: ReplicaLimits,
        waiting: Callable[[], list[TokenRun]],  # own runs that are not in the log yet
        forgotten: Callable[[], None],  # called when somebody else emptied the space
        tombstones: Tombstones,
    ) -> None:
        self.space = space
        self.history = History(store.build(None))
        self.resyncs: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        # Why the space cannot be followed; empty where it can.
        self.trouble = ""
        self.synced = False
        self.lag = Lag(runtime.now())
        self.rolled_back_at: float | None = None
        self._store, self._log, self._limits = store, log, limits
        self._runtime = runtime
        self._waiting, self._forgotten, self._tombstones = waiting, forgotten, tombstones
        self._ahead = Overlay(space, store, runtime, waiting=waiting)
        self._transfer = SnapshotTransfer(
            space, store, log, runtime, max_len=limits.max_snapshot_bytes
        )
        self._pointer: bytes | None = None
        self._instance_id: str | None = None
        self._stranded_at: float | None = None
        # A snapshot that can be read, from which the log does not go on.
        self._adrift: tuple[Position, TokenTrie] | None = None
        self._wanted = False
        # Raised by whatever replaces the state under a running poll.
        self._era = 0
        store.place(space, self.trie)

    @property
    def trie(self) -> TokenTrie:
        """The trie at the cursor."""
        return self.history.trie

    @property
    def ahead(self) -> bool:
        """Tell whether drafts are made from runs that are not in the log yet."""
        return self._ahead.trie is not None

    async def poll(self) -> int:
        """Read once and apply; return how many entries were applied. Resyncs where it must."""
        era = self._era
        try:
            page = await self._log.read(self.space, self.history.cursor)
        except WrongType as error:
            await self.repair(str(error))
            return 0
        if era != self._era:
            return 0
        if await self._forget_again(page):
            return 0
        reason = self._examine(page)
        if reason is not None:
            self.resyncs[reason] += self.synced or not self.resyncs
            if self.synced and await self._replace_pointer(page):
                return 0
            self.synced = False
            await self._resync(page)
            return 0
        return await self._go_on(page)

    async def go_ahead(self) -> None:
        """Draft from a copy that has also learned what waits, until the log moves on."""
        place = self._era, self.history.cursor, self.trie
        copy = await self._ahead.prepare(self.trie)
        if place == (self._era, self.history.cursor, self.trie) and not self.ahead:
            self._ahead.enter(copy)

    def learn_ahead(self, run: TokenRun) -> None:
        """Let drafts made ahead of the log see one more run."""
        self._ahead.learn(run)

    def roll_back(self) -> None:
        """Draft from the trie at the cursor again."""
        if self._ahead.leave(self.trie):
            self.rolled_back_at = self._runtime.now()

    def forget(self) -> None:
        """Forget everything here, as the owner of the space wishes."""
        self._tombstones.saw(self.space, self.history.incarnation)
        self._tombstones.end(self.space)
        self._store.forget(self.space)
        self._adrift = None
        self._clear()

    def snapshot_age_s(self) -> float | None:
        """Return how far the newest snapshot lies behind the cursor in time; None without one."""
        pointer = parse_pointer(self._pointer)
        if pointer is None or not pointer.generations:
            return None
        return max(0.0, (self.history.cursor[0] - pointer.newest.covered[0]) / 1000)

    def other_limit(self) -> int | None:
        """Return the bytes that tries may take at the newest snapshot's writer, if not as here."""
        pointer = parse_pointer(self._pointer)
        known = pointer is not None and pointer.max_bytes not in (0, self._store.max_bytes)
        return pointer.max_bytes if pointer and known else None

    def snapshot_due(self) -> bool:
        """Tell whether enough was applied, or somebody asked."""
        if not self.synced or self.ahead or self.history.cursor == ZERO:
            return False
        pointer = parse_pointer(self._pointer)
        covered = pointer.newest.num_tokens if pointer else 0
        grown = int(self._limits.snapshot_growth * self.trie.num_tokens)
        enough = max(self._limits.snapshot_tokens, grown)
        # Fewer than were covered: the pointer's number is not one that was counted.
        return self._wanted or not 0 <= self.history.num_tokens - covered < enough

    async def snapshot(self) -> bool:
        """Write the state at the cursor as the newest generation, unless somebody else does."""
        old = parse_pointer(self._pointer)
        if old and old.newest.covered > self.history.cursor:
            return False
        lease = await self._acquire()
        if lease is None or not self.synced or self.ahead:
            return False
        return await self._upload(lease, self.history.position(), self._pointer)

    async def repair(self, error: str) -> None:
        """Delete what is none of ours. Where the log was lost so, the memory is a new base."""
        self._complain(f"keys in Redis are of another type than ours ({error})")
        names = await self._log.wrong_keys(self.space)
        await self._log.remove(self.space, names - {"log"})
        holds_it = self.synced and self.trie.num_tokens > 0
        expected = None if "pointer" in names else self._pointer
        if holds_it and names & {"log", "pointer"} and not await self._reseed(expected):
            return
        await self._log.remove(self.space, names & {"log"})
        self.repairs["type"] += len(names)
        self.synced = False

    def _examine(self, page: Page) -> str | None:
        """Return why the state cannot simply go on from the cursor, or None."""
        if not self.synced:
            return "start"
        pointer = parse_pointer(page.pointer)
        if (pointer.base if pointer else "") != self.history.base:
            return "base"
        if _points_nowhere(page):
            return "pointer"
        # Trimming and failover both show here: the cursor's own entry is gone, or is another.
        return None if page.leads_on(self.history.position()) else "moved"

    async def _go_on(self, page: Page) -> int:
        """Apply what lies behind the cursor, unless the state is replaced on the way."""
        era = self._era
        self._wanted, self._pointer = page.wanted, page.pointer
        fresh = page.entries if self.history.cursor == ZERO else page.entries[1:]
        self.lag.saw(page, len(fresh), self._runtime.now())
        if not fresh and self.ahead and not self._waiting():
            self.roll_back()
        for entry_id, data in fresh:
            if self.trie.crowded:
                await self._make_room()
            if era != self._era:
                return 0
            self.roll_back()
            self.history.apply(entry_id, data)
            self.lag.applied()
            await self._runtime.breathe()
            if era != self._era:
                return 0
        return len(fresh)

    async def _make_room(self) -> None:
        """Go on with a larger copy, made elsewhere: growing in place would hold up drafts."""
        era, old = self._era, self.trie
        copy = await self._runtime.offload(lambda: self._store.build(old.export()))
        if era == self._era:
            self.history.trie = copy
            if not self.ahead:
                self._store.place(self.space, copy)

    async def _resync(self, page: Page) -> None:
        """Go to what Redis holds; where Redis lost everything, give it what this replica holds."""
        self.roll_back()
        if page.pointer is None:
            await self._resync_without_pointer()
            return
        pointer, adrift = parse_pointer(page.pointer) or UNREADABLE, None
        for generation in pointer.generations:
            era = self._era
            loaded = await self._transfer.load(generation)
            if era != self._era:
                return
            if loaded is None:
                continue
            there = await self._log.read(self.space, loaded[0].cursor)
            if era != self._era or there.pointer != page.pointer:
                return  # look again
            if there.leads_on(loaded[0]) and loaded[0].base == pointer.base:
                self._stand_at(*loaded)
                await self._synced(page.pointer)
                return
            self._transfer.refuse(generation, f"{generation.key}: the log does not go on from it")
            adrift = adrift or loaded
        await self._strand(page, adrift)

    async def _resync_without_pointer(self) -> None:
        instance_id, era = await self._log.instance_id(), self._era
        lost = self._instance_id is not None and instance_id != self._instance_id
        if lost and self.trie.num_tokens:
            if await self._reseed(None):
                # Whoever empties the space from now on means it.
                self._instance_id = instance_id
            return
        page = await self._log.read(self.space, ZERO)
        if era != self._era or await self._forget_again(page, from_start=True):
            return
        cursor, oldest = self.history.cursor, page.entries[:1]
        if cursor > ZERO and (not oldest or oldest[0][0] > cursor):
            self.forget()
            self._forgotten()
        self._clear()
        await self._synced(None)

    async def _forget_again(self, page: Page, *, from_start: bool = False) -> bool:
        """Delete what came back after it was forgotten; tell whether that was so."""
        from_start = from_start or self.history.cursor == ZERO
        if incarnation_in(page, from_start=from_start) not in self._tombstones:
            return False
        self.resyncs["forgotten"] += 1
        await self._log.forget(self.space)
        return True

    async def _strand(self, page: Page, adrift: tuple[Position, TokenTrie] | None) -> None:
        """No generation leads on: ask for a new one, then found a history on what is left."""
        self._complain("no snapshot in Redis can be used")
        await self._log.want_snapshot(self.space)
        if adrift is not None and adrift[0].incarnation not in self._tombstones:
            self._adrift = adrift
        if self._stranded_at is None:
            self._stranded_at = self._runtime.now()
        if self._runtime.now() - self._stranded_at >= self._limits.patience_s:
            self._clear()
            if self._adrift is not None:
                self._stand_at(*self._adrift)
            else:
                pointer = parse_pointer(page.pointer)
                self.history.incarnation = pointer.incarnation if pointer else ""
            self.repairs["snapshot"] += await self._reseed(page.pointer)

    async def _replace_pointer(self, page: Page) -> bool:
        """Give Redis a pointer to what this replica holds, where its own is none."""
        if not _points_nowhere(page) or not self.trie.num_tokens:
            return False
        self._complain("the pointer to the snapshots is none")
        done = await self._reseed(page.pointer)
        self.repairs["pointer"] += done
        return done

    async def _acquire(self) -> Lease | None:
        try:
            return await self._log.acquire(self.space)
        except WrongType as error:
            await self.repair(str(error))
            return None

    def _complain(self, trouble: str) -> None:
        if not self.trouble:
            logger.warning("space in trouble space=%s: %s", self.space, trouble)
        self.trouble = trouble

    async def _reseed(self, expected: bytes | None) -> bool:
        """Make this replica's state the base that all others start from."""
        lease = await self._log.acquire(self.space)
        if lease is None:
            return False
        self.roll_back()
        # The whole log that is left comes on top; what it shares with the base counts as seen.
        position = self.history.position()
        position = replace(position, base=uuid.uuid4().hex, cursor=ZERO, check=0)
        return await self._upload(lease, position, expected)

    async def _synced(self, pointer: bytes | None) -> None:
        self._instance_id = await self._log.instance_id()
        self._pointer = pointer
        self._stranded_at = self._adrift = None
        if self.trouble:
            logger.info("space recovered space=%s", self.space)
        self.trouble = ""
        self.synced = True

    async def _upload(self, lease: Lease, position: Position, expected: bytes | None) -> bool:
        done = await self._transfer.upload(lease, position, self.trie.export(), expected)
        self.history.counts.snapshots += done
        return done

    def _clear(self) -> None:
        """Stand at the beginning with nothing; the next poll starts over."""
        self._era += 1
        self._stand_at(START, self._store.build(None))
        self.synced = False

    def _stand_at(self, position: Position, trie: TokenTrie) -> None:
        self._tombstones.saw(self.space, self.history.incarnation)
        self.history.stand_at(position, trie)
        self.lag.restart()
        self._ahead.trie = None
        self._store.place(self.space, trie)


def _points_nowhere(page: Page) -> bool:
    """Tell whether no drafter wrote the pointer: it is unreadable, or beyond the end of the log."""
    pointer, end = parse_pointer(page.pointer), page.end.last_id
    if pointer is None:
        return False
    return not pointer.generations or (end > ZERO and pointer.newest.covered > end)
