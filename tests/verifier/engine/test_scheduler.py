"""The queue is bounded, first come first served inside an account, and fair between them."""

from collections import Counter
from dataclasses import dataclass

import pytest

from verifier.engine.scheduler import QueueFull, Scheduler


@dataclass(eq=False)
class Waiting:
    account: str
    number: int
    length: int = 1
    service: float = 0.0


def test_accounts_that_received_as_much_take_turns() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=4, max_waiting=20)
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
        scheduler.enqueue(Waiting("", i))
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        scheduler.enqueue(Waiting("b", 3))


def test_a_flood_leaves_places_for_others() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=2, max_waiting=62)
    taken: Counter[str] = Counter()
    for account in ("a", "b", "c"):
        with pytest.raises(QueueFull):
            for i in range(100):
                scheduler.enqueue(Waiting(account, i))
                taken[account] += 1
    assert taken == {"a": 32, "b": 16, "c": 8}
    scheduler.enqueue(Waiting("d", 0))


def test_who_received_least_is_next_however_much_others_ask() -> None:
    """One asks for four short answers at a time, the other for as many long ones as fit."""
    scheduler: Scheduler[Waiting] = Scheduler(max_running=4, max_waiting=40)
    served: Counter[str] = Counter()
    for step in range(10_000):
        try:
            while True:
                scheduler.enqueue(Waiting("flood", step, length=200))
        except QueueFull:
            pass
        polite = [s for s in scheduler.running if s.account == "polite"]
        waiting = scheduler._waiting.get("polite", ())
        for _ in range(4 - len(polite) - len(waiting)):
            scheduler.enqueue(Waiting("polite", step, length=50))
        list(scheduler.admit())
        for sequence in list(scheduler.running):
            sequence.service += 1
            served[sequence.account] += 1
            if sequence.service >= sequence.length:
                scheduler.remove(sequence)
    assert served["polite"] / served.total() == pytest.approx(0.5, abs=0.05)


def test_nobody_saves_up_while_away() -> None:
    scheduler: Scheduler[Waiting] = Scheduler(max_running=1, max_waiting=40)
    for i in range(10):
        scheduler.enqueue(Waiting("busy", i))
    for _ in range(5):
        [sequence] = scheduler.admit()
        sequence.service = 100.0
        scheduler.remove(sequence)
    for i in range(5):
        scheduler.enqueue(Waiting("new", i))
    order = []
    for _ in range(4):
        [sequence] = scheduler.admit()
        sequence.service = 100.0
        scheduler.remove(sequence)
        order.append(sequence.account)
    assert sorted(order) == ["busy", "busy", "new", "new"]


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
