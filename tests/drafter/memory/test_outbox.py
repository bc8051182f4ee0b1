"""The outbox keeps order and identity, and its bounds."""

import numpy as np
import pytest

from drafter.log.entry import decode
from drafter.memory.outbox import Outbox
from drafter.trie.token_run import TokenRun

PRODUCER = bytes(16)


def run(*tokens: int) -> TokenRun:
    return np.array(tokens, np.int32)


def outbox(max_runs: int = 100, max_bytes: int = 1 << 20) -> Outbox:
    return Outbox(PRODUCER, 7, max_runs=max_runs, max_bytes=max_bytes)


def test_entry_keeps_its_identity_until_it_is_acknowledged() -> None:
    box = outbox()
    box.add("a/n", run(1))
    first = box.take("a/n")
    box.add("a/n", run(2))
    again = box.take("a/n")
    assert first != again, "a retry can be told from its original"
    assert decode(first).sequence == decode(again).sequence == 1
    assert [r.tolist() for r in decode(again).runs] == [[1]]
    box.acknowledge("a/n")
    assert decode(box.take("a/n")).sequence == 2


def test_sequence_numbers_are_contiguous_per_space() -> None:
    box = outbox()
    for space in ("a/n", "b/n", "a/n"):
        box.add(space, run(1))
        assert box.has(space)
        box.take(space)
        box.acknowledge(space)
    box.add("a/n", run(1))
    assert decode(box.take("a/n")).sequence == 3


@pytest.mark.parametrize(("max_runs", "max_bytes"), [(3, 1 << 20), (100, 12)])
def test_full_outbox_drops_the_oldest_and_counts(max_runs: int, max_bytes: int) -> None:
    box = outbox(max_runs, max_bytes)
    for number in range(10):
        box.add("a/n" if number % 2 else "b/n", run(number))
    assert (box.num_runs, box.num_bytes, box.dropped) == (3, 12, 7)
    left = [r.tolist() for space in ("b/n", "a/n") for r in box.waiting(space)]
    assert sorted(left) == [[7], [8], [9]]


def test_entry_in_flight_is_never_dropped() -> None:
    box = outbox(max_runs=1)
    box.add("a/n", run(1))
    box.take("a/n")
    for number in range(5):
        box.add("a/n", run(number))
    assert [r.tolist() for r in decode(box.take("a/n")).runs] == [[1]]


def test_runs_that_wait_together_share_an_entry() -> None:
    box = outbox()
    for number in range(50):
        box.add("a/n", run(number))
    assert len(decode(box.take("a/n")).runs) == 50
    box.acknowledge("a/n")
    assert (box.num_runs, box.num_bytes, box.spaces()) == (0, 0, [])


def test_long_run_is_cut_and_none_of_it_lost() -> None:
    box = outbox()
    box.add("a/n", np.arange(200_000, dtype=np.int32))
    found: list[int] = []
    while box.has("a/n"):
        found += [int(t) for r in decode(box.take("a/n")).runs for t in r]
        box.acknowledge("a/n")
    assert found == list(range(200_000))


def test_discarded_space_leaves_nothing_and_others_alone() -> None:
    box = outbox()
    box.add("a/n", run(1))
    box.add("b/n", run(2))
    box.take("a/n")
    box.discard("a/n")
    assert box.spaces() == ["b/n"]
    assert box.num_runs == 1
    box.acknowledge("a/n")
    assert box.num_runs == 1
