"""Turns against a naive reference: in order, never two of one space at once, none lost."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from drafter.memory.turns import TurnQueue, Turns

STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "begin", "end", "withdraw"]), st.sampled_from("abcd")),
    max_size=60,
)


class Reference:
    """The same in lists: who waits, whose turn it is, and who asked during a turn."""

    def __init__(self) -> None:
        self.due: list[str] = []
        self.running: list[str] = []
        self.again: set[str] = set()

    def ask(self, space: str) -> None:
        if space in self.running:
            self.again.add(space)
        elif space not in self.due:
            self.due.append(space)

    def begin(self) -> str | None:
        if not self.due:
            return None
        self.running.append(self.due[0])
        return self.due.pop(0)

    def end(self, space: str) -> None:
        self.running.remove(space)
        if space in self.again:
            self.again.remove(space)
            self.due.append(space)

    def withdraw(self, space: str) -> bool:
        if space in self.running:
            return False
        self.due = [other for other in self.due if other != space]
        return True


@given(STEPS)
def test_queue_is_the_reference(steps: list[tuple[str, str]]) -> None:
    queue, reference = TurnQueue(), Reference()
    for step, space in steps:
        if step == "begin":
            assert queue.begin() == reference.begin()
        elif step == "end":
            if space in reference.running:
                queue.end(space)
                reference.end(space)
        else:
            assert getattr(queue, step)(space) == getattr(reference, step)(space)
        for name in "abcd":
            assert queue.waits(name) == (name in reference.due + reference.running)


def test_a_tenant_with_many_spaces_keeps_no_other_waiting() -> None:
    queue = TurnQueue()
    for number in range(1000):
        queue.ask(f"v/flood.{number}")
    queue.ask("v/polite.1")
    queue.ask("v/polite.2")
    begun = [queue.begin() for _ in range(5)]
    assert begun == ["v/flood.0", "v/polite.1", "v/flood.1", "v/polite.2", "v/flood.2"]


async def test_a_failing_turn_ends_and_comes_again_while_others_go_on() -> None:
    taken: list[str] = []
    done = asyncio.Event()

    async def take(space: str) -> float | None:
        taken.append(space)
        if space == "bad" and taken.count("bad") == 1:
            raise ValueError("broken")
        if taken.count("bad") == 2 and "good" in taken:
            done.set()
        return None

    turns = Turns(take, num_workers=2)
    turns.start()
    turns.ask("bad")
    turns.ask("good")
    try:
        await asyncio.wait_for(done.wait(), 30)
    finally:
        await turns.stop()
    assert taken.count("good") == 1


async def test_a_withdrawn_space_takes_no_turn_though_one_was_to_come_later() -> None:
    taken: list[str] = []
    seen = asyncio.Event()

    async def take(space: str) -> float | None:
        taken.append(space)
        if space == "last":
            seen.set()
        return None

    turns = Turns(take, num_workers=1)
    turns.ask_later("gone", 0.0)
    assert turns.withdraw("gone")
    turns.start()
    turns.ask_later("last", 0.01)
    try:
        await asyncio.wait_for(seen.wait(), 30)
    finally:
        await turns.stop()
    assert taken == ["last"]
