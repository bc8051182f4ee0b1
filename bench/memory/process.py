"""One drafter's memory in a process of its own, driven over a pipe; it may be killed."""

import asyncio
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bench.topologies.server import wait_until
from drafter.drafting.session_store import SessionStore
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import MemoryLimits, SharedMemory
from drafter.trie.snapshot import Arrays
from drafter.trie.store import TokenTrie
from drafter.trie.token_run import TokenRun
from drafter.trie.trie import Trie

SPACE = "bench/memory"
MAX_BYTES = 2 << 30
RUNS_PER_CALL, MAX_WAITING_RUNS = 200, 2000
MAX_WAIT_S = 300.0
POLL_S = 0.02


class TimedTrie(Trie):
    """Remembers when each run arrived, by its first token."""

    learned_at: dict[int, float]

    def learn(self, token_ids: TokenRun) -> None:
        super().learn(token_ids)
        self.learned_at[int(token_ids[0])] = time.monotonic()


class TimedStore(SessionStore):
    """Builds tries that note when runs arrive."""

    def __init__(self, sessions: DraftSessions) -> None:
        super().__init__(sessions, max_namespace_bytes=MAX_BYTES)
        self.learned_at: dict[int, float] = {}

    def build(self, arrays: Arrays | None) -> TokenTrie:  # type: ignore[override]
        trie = TimedTrie(max_bytes=MAX_BYTES)
        trie.learned_at = self.learned_at
        if arrays is not None:
            trie.restore(arrays)
        return trie


@dataclass(frozen=True, slots=True)
class State:
    """What a process answers about itself."""

    synced: bool
    num_tokens: int
    outbox_runs: int
    position: str
    digest: str
    duplicates: int
    holes: int
    snapshots: int
    applied_tokens: int
    resyncs: dict[str, int]


class MemoryProcess:
    """The handle of one process."""

    def __init__(self, url: str, limits: MemoryLimits) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(url, limits, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # imported and compiled

    def call(self, name: str, *arguments: Any) -> Any:
        """Run a method of the worker and return its answer."""
        self._pipe.send((name, arguments))
        return self._pipe.recv()

    def state(self) -> State:
        found: State = self.call("state")
        return found

    def append_all(self, runs: list[TokenRun]) -> float:
        """Append without filling the outbox and wait until all is applied; return the seconds."""
        total = sum(len(run) for run in runs)
        began = time.monotonic()
        for first in range(0, len(runs), RUNS_PER_CALL):
            self.call("append", runs[first : first + RUNS_PER_CALL])
            wait_until(lambda: self.call("progress")[1] < MAX_WAITING_RUNS, MAX_WAIT_S, POLL_S)
        wait_until(lambda: self.call("progress")[:2] == (total, 0), MAX_WAIT_S, POLL_S)
        return time.monotonic() - began

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def stop(self) -> None:
        """End it as a rolling restart would."""
        self.call("stop")
        self._process.join()
        self._pipe.close()


class _Worker:
    """What runs in the process."""

    def __init__(self, url: str, limits: MemoryLimits) -> None:
        sessions = DraftSessions(max_namespace_bytes=MAX_BYTES)
        self._store = TimedStore(sessions)
        self._memory = SharedMemory(self._store, redis_url=url, limits=limits)
        self._pacing: asyncio.Task[None] | None = None
        self._appended: list[tuple[int, float]] = []
        self.done = asyncio.Event()

    async def start(self) -> float:
        """Load the space; return how many seconds it took to be synced and caught up."""
        start = time.monotonic()
        await self._memory.start()
        self._memory.load(SPACE)
        replica = self._memory.replica(SPACE)
        while not replica.synced or replica.lag.caught_up_at is None:
            await asyncio.sleep(0.001)
        return time.monotonic() - start

    async def append(self, runs: list[TokenRun]) -> None:
        for run in runs:
            self._memory.append(SPACE, run)

    async def pace(self, first: int, runs_per_s: float, length: int) -> None:
        """Append runs at a steady rate until the process ends."""
        self._pacing = asyncio.ensure_future(self._keep_pace(first, runs_per_s, length))

    async def appended(self) -> list[tuple[int, float]]:
        """Return the first token of each paced run, and when it was appended."""
        return self._appended

    async def learned_at(self) -> dict[int, float]:
        return self._store.learned_at

    async def tokens(self) -> list[int]:
        """Return the first tokens of all runs that the trie holds."""
        trie = self._memory.replica(SPACE).trie
        assert isinstance(trie, Trie)
        live = trie.live_tokens()
        begins = np.concatenate([[True], live[:-1] < 0])[: len(live)]
        return [int(token) for token in live[begins]]

    async def state(self) -> State:
        status = self._memory.status()
        found = self._memory.describe(SPACE)
        assert found is not None
        _, digest = await self._memory.digest(SPACE)
        return State(
            synced=self._memory.replica(SPACE).synced,
            num_tokens=found.num_tokens,
            outbox_runs=status.outbox_runs,
            position=found.position,
            digest=digest,
            duplicates=status.duplicates,
            holes=status.holes,
            snapshots=status.snapshots,
            applied_tokens=status.applied_tokens,
            resyncs=status.resyncs,
        )

    async def progress(self) -> tuple[int, int, int]:
        """Return tokens applied, runs waiting and snapshots written, without hashing anything."""
        status = self._memory.status()
        return status.applied_tokens, status.outbox_runs, status.snapshots

    async def num_bytes(self) -> int:
        """Return what the trie takes."""
        return self._memory.replica(SPACE).trie.num_bytes

    async def snapshot(self) -> float:
        """Write a snapshot now; return how many seconds it took."""
        began = time.monotonic()
        done = await self._memory.replica(SPACE).snapshot()
        assert done, "the snapshot was not published"
        return time.monotonic() - began

    async def stop(self) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
        await self._memory.stop()
        self.done.set()

    async def _keep_pace(self, first: int, runs_per_s: float, length: int) -> None:
        start, number = time.monotonic(), 0
        while True:
            run = np.random.default_rng(number).integers(0, 1 << 17, length, dtype=np.int32)
            run[0] = first + number
            self._appended.append((first + number, time.monotonic()))
            self._memory.append(SPACE, run)
            number += 1
            await asyncio.sleep(max(0.0, start + number / runs_per_s - time.monotonic()))


def _run(url: str, limits: MemoryLimits, pipe: Connection) -> None:
    asyncio.run(_serve(url, limits, pipe))


async def _serve(url: str, limits: MemoryLimits, pipe: Connection) -> None:
    worker = _Worker(url, limits)
    warm = TimedStore(DraftSessions()).build(None)
    warm.learn(np.arange(10, dtype=np.int32))
    pipe.send("ready")
    while not worker.done.is_set():
        name, arguments = await asyncio.to_thread(pipe.recv)
        pipe.send(await getattr(worker, name)(*arguments))
