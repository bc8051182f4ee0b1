"""Who runs next: a bounded waiting queue, fair between namespaces, and the running sequences."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class HasNamespace(Protocol):
    """What the scheduler needs to know of a sequence."""

    @property
    def namespace(self) -> str:
        """Whose turn it takes."""
        ...


S = TypeVar("S", bound=HasNamespace)


class QueueFull(Exception):
    """As many sequences wait as are allowed to."""


class Scheduler(Generic[S]):
    """Namespaces take turns; inside one, first come, first served."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.running: list[S] = []
        self.max_running = max_running
        self.max_waiting = max_waiting
        self._waiting: dict[str, deque[S]] = {}

    @property
    def num_waiting(self) -> int:
        """Sequences not admitted yet."""
        return sum(len(queue) for queue in self._waiting.values())

    def enqueue(self, sequence: S) -> None:
        """Let a sequence wait, or raise QueueFull. Those that find room at once do not count."""
        room = self.max_running - len(self.running)
        if self.num_waiting >= self.max_waiting + room:
            raise QueueFull(f"{self.num_waiting} requests are waiting already")
        self._waiting.setdefault(sequence.namespace, deque()).append(sequence)

    def admit(self) -> Iterator[S]:
        """Move waiting sequences to running while there is room, and yield each."""
        while self._waiting and len(self.running) < self.max_running:
            namespace, queue = next(iter(self._waiting.items()))
            sequence = queue.popleft()
            # To the back of the line, so that the next namespace comes first next time.
            del self._waiting[namespace]
            if queue:
                self._waiting[namespace] = queue
            self.running.append(sequence)
            yield sequence

    def drain(self) -> list[S]:
        """Take everything that waits."""
        waiting = [sequence for queue in self._waiting.values() for sequence in queue]
        self._waiting.clear()
        return waiting

    def remove(self, sequence: S) -> None:
        """Forget a sequence, wherever it is; one that is gone already is no error."""
        if sequence in self.running:
            self.running.remove(sequence)
            return
        queue = self._waiting.get(sequence.namespace)
        if queue is not None and sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.namespace]
