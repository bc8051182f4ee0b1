"""The trie against a plain-Python twin, after every operation; and what it refuses."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drafter.trie.token_run import MAX_TOKEN_ID
from drafter.trie.trie import MIN_CAPACITY, Trie
from tests.support.memory.trie_index import following, holds, places

SMALLEST = 4 * (8 + 10 * MIN_CAPACITY + 64)
RUNS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


class Twin:
    """The same promises from a list of tokens: look at every place, believe nothing else."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: list[int] = []
        self.learned = 0

    def append(self, run: list[int]) -> None:
        self.tokens = (self.tokens + run)[-self.capacity :]
        self.learned += len(run)

    def places(self, context: list[int]) -> list[int]:
        ends = range(len(self.tokens) - 1, len(context) - 2, -1)
        return [end for end in ends if self.tokens[end - len(context) + 1 : end + 1] == context]


class TrieMachine(RuleBasedStateMachine):
    """Any order of operations leaves the trie equal to the twin."""

    @initialize()
    def start(self) -> None:
        self.trie = Trie(max_bytes=SMALLEST)
        self.twin = Twin(MIN_CAPACITY)

    @rule(run=RUNS)
    def learn(self, run: list[int]) -> None:
        self.trie.learn(np.array(run, np.int32))
        self.twin.append([*run, -1])

    @rule(run=RUNS, times=st.integers(10, 40))
    def learn_much(self, run: list[int], times: int) -> None:
        self.learn(run * times)

    @rule(run=RUNS)
    def append(self, run: list[int]) -> None:
        self.trie.append(np.array(run, np.int32))
        self.twin.append(run)

    @rule()
    def restore(self) -> None:
        other = Trie(max_bytes=SMALLEST)
        other.restore(self.trie.export())
        assert other.digest() == self.trie.digest()
        self.trie = other

    @rule(context=st.lists(st.integers(0, 3), min_size=1, max_size=12))
    def look_up(self, context: list[int]) -> None:
        assert places(self.trie, np.array(context, np.int32)) == self.twin.places(context)

    @invariant()
    def agrees(self) -> None:
        self.trie.check()
        assert self.trie.live_tokens().tolist() == self.twin.tokens
        assert self.trie.num_learned == self.twin.learned


TestTrieMachine = TrieMachine.TestCase
TestTrieMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_what_followed_a_context_is_found_latest_first() -> None:
    trie = Trie()
    for token in (5, 6, 5, 7):
        trie.learn(np.array([1, 2, token], np.int32))
    assert following(trie, np.array([1, 2], np.int32)) == [7, 5, 6, 5]


def test_no_match_crosses_a_boundary() -> None:
    trie = Trie()
    trie.learn(np.array([1, 2], np.int32))
    trie.learn(np.array([3, 4], np.int32))
    assert following(trie, np.array([2], np.int32)) == []
    assert not holds(trie, np.array([2, 3], np.int32))


def test_growth_keeps_every_token_and_the_limit_evicts_the_oldest() -> None:
    trie = Trie(max_bytes=4 * SMALLEST)
    run = np.arange(10 * MIN_CAPACITY, dtype=np.int32)
    for start in range(0, len(run), 100):
        trie.append(run[start : start + 100])
        trie.check()
    kept = trie.live_tokens()
    assert len(kept) == 4 * MIN_CAPACITY
    assert np.array_equal(kept, run[-len(kept) :])
    assert trie.num_bytes <= 4 * SMALLEST


def test_one_token_repeated_is_found() -> None:
    trie = Trie()
    trie.learn(np.full(100_000, 7, np.int32))
    assert places(trie, np.full(40, 7, np.int32), limit=8) == list(range(99_999, 99_991, -1))
    trie.check()


@pytest.mark.parametrize(
    "ids", [[-1], [MAX_TOKEN_ID + 1], [1 << 40], [1 << 80], [1.5], [[1], [2]], ["a"]]
)
def test_what_is_no_token_id_is_refused_and_nothing_changes(ids: list[object]) -> None:
    trie = Trie()
    trie.learn(np.array([1, 2, 3], np.int32))
    before = trie.digest()
    with pytest.raises(ValueError, match="token_ids"):
        trie.learn(ids)  # type: ignore[arg-type]  # what a careless caller sends
    trie.check()
    assert trie.digest() == before


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": np.array([1, -2], np.int32)},
        {"tokens": np.array([1, 2], np.int64)},
        {"tokens": np.zeros((2, 2), np.int32)},
        {"tokens": np.array([MAX_TOKEN_ID + 1], np.int32)},
        {"num_learned": np.array([1], np.int64)},
        {"num_learned": np.array([-5], np.int64)},
        {"num_learned": np.array([1 << 62], np.int64)},
        {"num_learned": np.array(7, np.int64)},
        {"index": np.zeros(4, np.int32)},
    ],
)
def test_a_hostile_export_is_refused(change: dict[str, np.ndarray]) -> None:
    trie = Trie()
    trie.learn(np.array([1, 2, 3], np.int32))
    before = trie.digest()
    with pytest.raises(ValueError, match=r"tokens|num_learned|arrays"):
        trie.restore({**trie.export(), **change})
    assert trie.digest() == before


def test_a_smaller_replica_keeps_the_newest_of_an_export() -> None:
    large, small = Trie(), Trie(max_bytes=SMALLEST)
    for start in range(0, 5000, 50):
        run = np.arange(start, start + 50, dtype=np.int32)
        large.learn(run)
        small.learn(run)
    restored = Trie(max_bytes=SMALLEST)
    restored.restore(large.export())
    assert restored.digest() == small.digest()


def test_copy_of_a_crowded_trie_has_room_and_goes_on_the_same() -> None:
    runs = [
        np.random.default_rng(seed).integers(0, 5000, 999, dtype=np.int32) for seed in range(300)
    ]
    trie, moved = Trie(max_bytes=16 << 20), Trie(max_bytes=16 << 20)
    num_copies = 0
    for run in runs:
        trie.learn(run)
        if moved.crowded:
            exported = moved.export()
            moved = Trie(max_bytes=16 << 20)
            moved.restore(exported)
            assert not moved.crowded
            num_copies += 1
        capacity = moved.num_bytes
        moved.learn(run)
        assert moved.num_bytes == capacity or moved.num_tokens < 1 << 17, "it grew in place"
    assert num_copies >= 1
    assert moved.digest() == trie.digest()
    moved.check()
