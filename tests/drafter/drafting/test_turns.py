"""One call for many sequences does, to the bit, what a call for each of them does in order."""

import random
import threading

import numpy as np
import pytest

from drafter.drafting.draft import DraftTree
from drafter.drafting.sessions import DraftSessions
from drafter.drafting.turns import Turn

NUM_SEQUENCES = 7


def opened(seed: int) -> DraftSessions:
    """Sequences of three spaces, some of which learned something before."""
    rng = random.Random(seed)
    sessions = DraftSessions()
    for index in range(NUM_SEQUENCES):
        space = "abc"[index % 3]
        sessions.learn(space, [rng.randrange(30) for _ in range(60)])
        prompt = [rng.randrange(30) for _ in range(rng.randrange(1, 80))]
        sessions.open(index, space=space, token_ids=prompt)
    return sessions


def some_turns(rng: random.Random, drafted: dict[int, int]) -> list[Turn]:
    """What some of the sequences emitted, and how many nodes some of them want."""
    turns = []
    for sequence_id in rng.sample(range(NUM_SEQUENCES), rng.randrange(1, NUM_SEQUENCES + 1)):
        turn = Turn(sequence_id, max_nodes=rng.choice([0, 1, 6, 16, 40]))
        turn.token_ids = [rng.randrange(30) for _ in range(rng.randrange(6))]
        if turn.token_ids:
            turn.num_verified = rng.randint(0, drafted.get(sequence_id, 0))
            if rng.random() < 0.7:
                rows = [[rng.randrange(30) for _ in range(8)] for _ in turn.token_ids]
                turn.successors = np.array(rows, np.int32)
        elif turn.max_nodes == 0:
            turn.max_nodes = 3
        turns.append(turn)
    return turns


def same(ours: DraftTree, theirs: DraftTree) -> bool:
    pairs = [
        (ours.token_ids, theirs.token_ids),
        (ours.parents, theirs.parents),
        (ours.probabilities, theirs.probabilities),
        (ours.sources, theirs.sources),
    ]
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("seed", range(6))
def test_turns_taken_together_are_those_of_each_sequence_in_order(seed: int) -> None:
    together, alone = opened(seed), opened(seed)
    rng = random.Random(100 + seed)
    drafted: dict[int, int] = {}
    num_nodes = 0
    for _ in range(40):
        turns = some_turns(rng, drafted)
        found = together.take_turns(turns)
        for turn in turns:
            if turn.token_ids:
                rows = () if turn.successors is None else turn.successors
                alone.observe(
                    turn.sequence_id,
                    list(turn.token_ids),
                    num_verified=turn.num_verified,
                    successors=rows,
                )
                drafted[turn.sequence_id] = 0
        for index, turn in enumerate(turns):
            if turn.max_nodes:
                expected = alone.propose(turn.sequence_id, turn.max_nodes)
                assert same(found.tree(index), expected)
                drafted[turn.sequence_id] = len(expected)
                num_nodes += len(expected)
            else:
                assert len(found.tree(index)) == 0
    assert num_nodes > 1000
    assert together.stats() == alone.stats()
    for space in "abc":
        ours, theirs = together.memory(space), alone.memory(space)
        assert np.array_equal(ours.calibration.model, theirs.calibration.model)
        assert np.array_equal(ours.successors.table, theirs.successors.table)
    together.check()


def test_successors_of_another_width_or_number_are_refused_and_nothing_is_taken() -> None:
    sessions = opened(1)
    before = sessions.stats()
    for shape in ((2, 8), (3, 7), (3, 9)):
        with pytest.raises(ValueError, match="successors"):
            sessions.take_turns([Turn(0, [1, 2, 3], successors=np.zeros(shape, np.int32))])
    assert sessions.stats() == before
    sessions.check()


def test_no_turns_are_no_work() -> None:
    assert DraftSessions().take_turns([]).counts == []


def test_a_space_learns_in_another_thread_while_its_sequences_draft() -> None:
    """What is learned meanwhile moves and grows the arrays that drafts are made from."""
    sessions = opened(2)
    rng = random.Random(3)
    runs = [[rng.randrange(30) for _ in range(200)] for _ in range(300)]

    def learn() -> None:
        for run in runs:
            sessions.learn("a", run)

    learning = threading.Thread(target=learn)
    learning.start()
    drafted: dict[int, int] = {}
    num_turns = 0
    while learning.is_alive() or num_turns < 50:
        turns = some_turns(rng, drafted)
        found = sessions.take_turns(turns)
        for index, turn in enumerate(turns):
            drafted[turn.sequence_id] = len(found.tree(index))
        num_turns += 1
    learning.join()
    sessions.check()
    expected = opened(2)
    for run in runs:
        expected.learn("a", run)
    assert sessions.trie("a").digest() == expected.trie("a").digest()
