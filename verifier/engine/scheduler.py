"""Who runs next: a bounded waiting queue, fair between accounts, and the running sequences.

An account is whoever the operator tells apart, an API key's namespace: no request can open a new
one. Whoever has received least is next, in tokens read and written, so that long answers and many
requests win nothing.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

MAX_ACCOUNTS = 4096  # remembered when they have nothing to do
USUAL_WEIGHT = 0.1  # of the newest request in what a request usually takes


class HasAccount(Protocol):
    """What the scheduler needs to know of a sequence."""

    @property
    def account(self) -> str:
        """Who pays for it; empty: all who are not told apart."""
        ...

    @property
    def service(self) -> float:
        """What it has received so far."""
        ...


S = TypeVar("S", bound=HasAccount)


class QueueFull(Exception):
    """As many sequences wait as are allowed to."""


class Scheduler(Generic[S]):
    """Accounts share what there is; inside one, first come, first served.

    Requests come from one thread and run in another one, so each method is a step of its own.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.running: list[S] = []
        self.max_running = max_running
        self.max_waiting = max_waiting
        self._waiting: dict[str, deque[S]] = {}
        self._parked: list[S] = []  # begun, without a slot, until their clients read on
        self._received: defaultdict[str, float] = defaultdict(float)  # by those that ran
        self._usual = 1.0  # what a request takes
        self._lock = threading.RLock()

    @property
    def parked(self) -> tuple[S, ...]:
        """Sequences that wait for their clients."""
        return tuple(self._parked)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot."""
        with self._lock:
            return sum(len(queue) for queue in self._waiting.values())

    @property
    def num_free(self) -> int:
        """Sequences that could run beside those that do."""
        return self.max_running - len(self.running)

    def enqueue(self, sequence: S) -> None:
        """Let a sequence wait, or raise QueueFull. Those that find room at once do not count."""
        with self._lock:
            self._enqueue(sequence)

    def _enqueue(self, sequence: S) -> None:
        num_free = self.max_waiting + self.num_free - self.num_waiting
        account = sequence.account
        own = len(self._waiting.get(account, ()))
        # An account leaves as many places as it takes, so a flood meets its limit, not others.
        if num_free <= 0 or (account and own and own >= num_free):
            raise QueueFull(f"{self.num_waiting} requests are waiting already")
        if account not in self._active():
            self._open(account)
        self._waiting.setdefault(account, deque()).append(sequence)

    def park(self, sequence: S) -> None:
        """Take a running sequence out until it is resumed; what it received still counts."""
        with self._lock:
            self.running.remove(sequence)
            self._parked.append(sequence)

    def resume(self, sequence: S) -> None:
        """Let a parked sequence wait again, as the first of its account."""
        with self._lock:
            self._parked.remove(sequence)
            self._waiting.setdefault(sequence.account, deque()).appendleft(sequence)

    def admit(self, has_room: Callable[[S], bool] = lambda sequence: True) -> Iterator[S]:
        """Move waiting sequences to running while there is room, and yield each.

        `has_room`: for the next one; where there is none, nobody goes before it.
        """
        while (sequence := self._next(has_room)) is not None:
            yield sequence

    def _next(self, has_room: Callable[[S], bool]) -> S | None:
        with self._lock:
            if not self._waiting or not self.num_free:
                return None
            account = min(self._waiting, key=self._share())
            if not has_room(self._waiting[account][0]):
                return None
            queue = self._waiting.pop(account)
            sequence = queue.popleft()
            if queue:
                self._waiting[account] = queue  # last of those that received as much
            self.running.append(sequence)
            return sequence

    def drain(self) -> list[S]:
        """Take everything that waits."""
        with self._lock:
            waiting = [sequence for queue in self._waiting.values() for sequence in queue]
            waiting += self._parked
            self._waiting.clear()
            self._parked.clear()
            return waiting

    def withdraw(self, sequence: S) -> None:
        """Forget a sequence that waits; one that does not is no error."""
        with self._lock:
            queue = self._waiting.get(sequence.account)
            if queue is not None and sequence in queue:
                queue.remove(sequence)
                if not queue:
                    del self._waiting[sequence.account]

    def remove(self, sequence: S) -> None:
        """Forget a sequence, wherever it is; one that is gone already is no error."""
        with self._lock:
            if sequence in self.running or sequence in self._parked:
                (self.running if sequence in self.running else self._parked).remove(sequence)
                self._received[sequence.account] += sequence.service
                self._usual += USUAL_WEIGHT * (sequence.service - self._usual)
            else:
                self.withdraw(sequence)

    def _active(self) -> set[str]:
        return {*self._waiting, *(sequence.account for sequence in self.running)}

    def _open(self, account: str) -> None:
        """Let an account begin where the least served one is: nobody saves up while away."""
        active = self._active()
        if len(self._received) > MAX_ACCOUNTS:
            kept = {a: self._received[a] for a in active}
            self._received = defaultdict(float, kept)
        share = self._share()
        if active:
            self._received[account] = max(share(account), min(map(share, active)))

    def _share(self) -> Callable[[str], float]:
        """Return what each account has received; what runs counts at least as it usually does."""
        received = self._received.copy()
        for sequence in (*self.running, *self._parked):
            received[sequence.account] += max(sequence.service, self._usual)
        return received.__getitem__
