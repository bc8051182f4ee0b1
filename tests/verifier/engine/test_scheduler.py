"""The queue is bounded, first come first served inside a namespace, and fair between them."""

from dataclasses import dataclass

import pytest

from verifier.engine.scheduler import QueueFull, Scheduler


@dataclass(eq=False)
class Waiting:
    namespace: str
    number: int


def test_namespaces_take_turns() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=4, max_waiting=10)
    flood = [Waiting("a", i) for i in range(6)]
    late = [Waiting("b", i) for i in range(2)]
    for sequence in [*flood, *late]:
        scheduler.enqueue(sequence)
    assert list(scheduler.admit()) == [flood[0], late[0], flood[1], late[1]]
    scheduler.remove(flood[0])
    assert list(scheduler.admit()) == [flood[2]]


def test_the_queue_is_bounded() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=1, max_waiting=2)
    for i in range(3):
        scheduler.enqueue(Waiting("a", i))
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        scheduler.enqueue(Waiting("b", 3))


def test_a_removed_sequence_is_gone_from_wherever_it_was() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=1, max_waiting=5)
    first, second = Waiting("a", 1), Waiting("a", 2)
    scheduler.enqueue(first)
    scheduler.enqueue(second)
    list(scheduler.admit())
    scheduler.remove(second)
    scheduler.remove(first)
    scheduler.remove(first)
    assert not scheduler.running
    assert scheduler.num_waiting == 0
