"""The bounded queue of finished runs to be appended; when full, it drops the oldest and counts.

One entry per space is in flight at a time. It keeps its identity until it is acknowledged, so the
first copies of a producer's entries stand in the log in order, whatever was retried.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from drafter.log.entry import MAX_ENTRY_RUNS, MAX_RUN_TOKENS, Entry, encode
from drafter.trie.token_run import TokenRun

# Small enough that a reader applies an entry in milliseconds, large enough to compress well.
_ENTRY_TOKENS = 8192


@dataclass(slots=True)
class _Queue:
    """What one space waits for."""

    runs: deque[tuple[float, TokenRun]] = field(default_factory=deque)  # (queued at, run)
    in_flight: Entry | None = None
    in_flight_since: float = 0.0  # when its oldest run was queued

    @property
    def oldest(self) -> float:
        return self.in_flight_since if self.in_flight else self.runs[0][0]


class Outbox:
    """Runs by space, oldest first, bounded in runs and in bytes over all spaces."""

    def __init__(
        self,
        producer: bytes,
        boot_epoch: int,
        *,
        max_runs: int,
        max_bytes: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_runs = 0
        self.num_bytes = 0
        self.dropped = 0
        self._producer, self._boot_epoch = producer, boot_epoch
        self._max_runs, self._max_bytes = max_runs, max_bytes
        self._queues: dict[str, _Queue] = {}
        # Per space: the epoch in which it numbers its entries, and the last number.
        self._sequences: dict[str, tuple[int, int]] = {}
        self._now = now

    def add(self, space: str, run: TokenRun) -> None:
        """Queue a run behind the others of its space; long ones are cut."""
        queue = self._queues.setdefault(space, _Queue())
        for start in range(0, len(run), MAX_RUN_TOKENS):
            piece = run[start : start + MAX_RUN_TOKENS]
            queue.runs.append((self._now(), piece))
            self._count(1, piece)
        while self.num_runs > self._max_runs or self.num_bytes > self._max_bytes:
            if not self._drop_oldest():
                break

    def spaces(self) -> list[str]:
        """Return the spaces that have something to send."""
        return [space for space in self._queues if self.has(space)]

    def oldest_s(self) -> float:
        """Return for how long the oldest run has waited; 0 where none does."""
        oldest = [self._queues[space].oldest for space in self.spaces()]
        return self._now() - min(oldest) if oldest else 0.0

    def has(self, space: str) -> bool:
        """Tell whether a space has something to send."""
        queue = self._queues.get(space)
        return queue is not None and bool(queue.in_flight or queue.runs)

    def waiting(self, space: str) -> list[TokenRun]:
        """Return a space's runs that are not acknowledged yet, oldest first."""
        queue = self._queues.get(space, _Queue())
        sent = list(queue.in_flight.runs) if queue.in_flight else []
        return sent + [run for _, run in queue.runs]

    def take(self, space: str) -> bytes:
        """Encode the entry to send now: the same one until `acknowledge`, else the next runs."""
        queue = self._queues[space]
        if queue.in_flight is None:
            queue.in_flight = self._next_entry(space, queue)
        else:
            queue.in_flight = replace(queue.in_flight, attempt=queue.in_flight.attempt + 1)
        return encode(queue.in_flight)

    def acknowledge(self, space: str) -> None:
        """Let go of the entry in flight; it is in the log."""
        queue = self._queues.get(space)
        if queue is None or queue.in_flight is None:
            return
        for run in queue.in_flight.runs:
            self._count(-1, run)
        queue.in_flight = None
        if not queue.runs:
            del self._queues[space]

    def discard(self, space: str) -> None:
        """Let go of all that a space waits for."""
        for run in self.waiting(space):
            self._count(-1, run)
        self._queues.pop(space, None)

    def leave(self, space: str) -> None:
        """Drop what a space waits for, and its numbers: when it comes back, a new epoch begins."""
        waiting = self.waiting(space)
        self.discard(space)
        self.dropped += len(waiting)
        if self._sequences.pop(space, None):
            self._boot_epoch += 1

    def _next_entry(self, space: str, queue: _Queue) -> Entry:
        queue.in_flight_since, first = queue.runs.popleft()
        runs = [first]
        room = _ENTRY_TOKENS - len(runs[0])
        while queue.runs and len(queue.runs[0][1]) <= room and len(runs) < MAX_ENTRY_RUNS:
            runs.append(queue.runs.popleft()[1])
            room -= len(runs[-1])
        epoch, last = self._sequences.get(space, (self._boot_epoch, 0))
        self._sequences[space] = epoch, last + 1
        return Entry(self._producer, epoch, last + 1, tuple(runs))

    def _drop_oldest(self) -> bool:
        queues = [queue for queue in self._queues.values() if queue.runs]
        if not queues:
            return False
        _, run = min(queues, key=lambda queue: queue.runs[0][0]).runs.popleft()
        self._count(-1, run)
        self.dropped += 1
        return True

    def _count(self, sign: int, run: TokenRun) -> None:
        self.num_runs += sign
        self.num_bytes += sign * run.nbytes
