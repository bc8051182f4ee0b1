"""Follows and feeds the logs of all spaces in memory, over a handful of connections and tasks.

Who hears news of a space, or has a run to send, gives it a turn. Besides, each space gets one from
time to time, in case news were lost; the more spaces there are, the rarer.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drafter.memory.news import News
from drafter.memory.outbox import Outbox
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.status import SpaceStatus
from drafter.memory.tombstones import Tombstones, forget_in_log
from drafter.memory.turns import Turns, end, going_on
from drafter.memory.worker import MemberTimes, SpaceWorker
from drafter.trie.store import Store, TokenTrie
from drafter.trie.token_run import TokenRun

if TYPE_CHECKING:
    from drafter.log.redis_log import RedisLog

logger = logging.getLogger(__name__)

_NUM_WORKERS = 4
_GREET_S = 1.0
_GREET_AGAIN_S = 0.25  # while Redis does not answer
# Of the turns that nobody asked for. They cost half a millisecond each.
_LOOKS_PER_S = 20


@dataclass(slots=True)
class Done:
    """What replicas did, by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    resyncs: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)

    def add(self, replica: Replica) -> None:
        self.counts.update(replica.history.counts.as_dict())
        self.resyncs.update(replica.resyncs)
        self.repairs.update(replica.repairs)

    def copy(self) -> "Done":
        return Done(self.counts.copy(), self.resyncs.copy(), self.repairs.copy())


class Following:
    """The spaces that follow a log. One event loop owns it."""

    def __init__(
        self,
        log: "RedisLog",
        store: Store,
        outbox: Outbox,
        *,
        limits: ReplicaLimits,
        times: MemberTimes,
        emptied: Callable[[set[str]], None],  # Redis lost everything; these had been forgotten
    ) -> None:
        self._log, self._store, self._outbox = log, store, outbox
        self._limits, self._times, self._emptied = limits, times, emptied
        self.members: dict[str, SpaceWorker] = {}
        self.connected = False
        self._past = Done()  # in spaces that are no longer in memory
        self._names: dict[bytes, str] = {}  # by what the news call them
        self._tombstones = Tombstones()
        self._snapshots = asyncio.Semaphore(1)
        self._turns = Turns(self._turn, num_workers=_NUM_WORKERS)
        self._news = News(log, changed=self._changed, missed=self._look_at_all)
        self._looking: Iterator[str] = iter(())
        self._instance_id = ""
        self._last_error = ""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the background."""
        self._turns.start()
        for work in (self._news.run, self._watch):
            self._tasks.append(asyncio.create_task(work(), name=f"memory {work.__name__}"))

    async def stop(self) -> None:
        """End all tasks; the spaces stay as they are."""
        await end(self._tasks)
        self._tasks = []
        await self._turns.stop()
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    async def close(self) -> None:
        """Let go of the connections."""
        try:
            await self._log.close()
        except ConnectionError as error:
            logger.info("closing the log: %s", error)

    def follow(self, space: str) -> None:
        """Begin to follow a space."""
        self.members[space] = SpaceWorker(
            space,
            self._store,
            self._log,
            self._outbox,
            self._tombstones,
            limits=self._limits,
            times=self._times,
            reachable=lambda: self.connected,
            snapshots=self._snapshots,
            again=lambda seconds: self._ask_later(space, seconds),
        )
        self._names[self._log.news_name(space)] = space
        self._turns.ask(space)

    def leave(self, space: str) -> bool:
        """Stop following a space; False while it has a turn or writes a snapshot."""
        member = self.members[space]
        if member.busy or not self._turns.withdraw(space):
            return False
        self._past.add(member.replica)
        del self.members[space], self._names[self._log.news_name(space)]
        return True

    def wake(self, space: str, run: TokenRun) -> None:
        """Send the run that was just queued."""
        self.members[space].replica.learn_ahead(run)
        self._turns.ask(space)

    def counted(self) -> Done:
        """Count what was done ever since the start."""
        done = self._past.copy()
        for member in self.members.values():
            done.add(member.replica)
        return done

    def trie(self, space: str) -> TokenTrie | None:
        """Return the trie of a space at its cursor."""
        member = self.members.get(space)
        return member.replica.trie if member else None

    def describe(self, space: str) -> SpaceStatus | None:
        """Describe a space that is followed."""
        member = self.members.get(space)
        return member.status(self._news.heard_at) if member else None

    async def forget(self, space: str) -> None:
        """Forget a space here and everywhere; ConnectionError where Redis could not be told."""
        member = self.members.get(space)
        if member is not None:
            member.replica.forget()
            self._turns.ask(space)
        await forget_in_log(self._log, space, self._tombstones)

    async def _turn(self, space: str) -> float | None:
        member = self.members.get(space)
        return await member.turn() if member else None

    def _ask_later(self, space: str, seconds: float) -> None:
        if space in self.members:
            self._turns.ask_later(space, seconds)

    def _changed(self, name: bytes) -> None:
        space = self._names.get(name)
        if space is not None:
            self.members[space].due()
            self._turns.ask(space)

    def _look_at_all(self) -> None:
        """Give every space a turn, those first that have something to send."""
        for space in sorted(self.members, key=self._outbox.has, reverse=True):
            self._turns.ask(space)

    async def _watch(self) -> None:
        """See whether Redis answers, and look at some spaces."""
        while going_on():
            try:
                await self._greet()
                if self.connected:
                    self._look_around()
            except Exception:
                logger.exception("watching the memory failed")
            await asyncio.sleep(_GREET_S if self.connected else _GREET_AGAIN_S)

    def _look_around(self) -> None:
        for number in range(min(_LOOKS_PER_S, len(self.members))):
            space = next(self._looking, None)
            if space is None:
                if number:
                    return
                self._looking = iter(list(self.members))
                space = next(self._looking)
            if space in self.members:
                self._turns.ask(space)

    async def _greet(self) -> None:
        try:
            self._meet(await self._log.instance_id())
            if not self.connected:
                logger.info("shared memory connected")
                self.connected, self._last_error = True, ""
                self._look_at_all()
        except ConnectionError as error:
            if self.connected or not self._last_error:
                logger.warning("shared memory unreachable: %s", error)
            self.connected, self._last_error = False, str(error)

    def _meet(self, instance_id: str) -> None:
        """In a Redis that lost everything, look after the spaces that were forgotten."""
        if self._instance_id and instance_id != self._instance_id:
            self._news.restart()
            self._emptied(self._tombstones.spaces())
        self._instance_id = instance_id
