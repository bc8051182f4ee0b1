"""Draft trees: well formed whatever was learned, bounded, deterministic, likeliest first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.drafting.draft import DraftTree
from drafter.drafting.sessions import DraftSessions

TOKENS = st.lists(st.integers(0, 6), max_size=80)


def check_tree(tree: DraftTree, max_nodes: int) -> None:
    size = len(tree)
    assert size <= max_nodes
    assert len(tree.parents) == len(tree.probabilities) == size
    assert (tree.parents < np.arange(size)).all() and (tree.parents >= -1).all()
    edges = list(zip(tree.parents.tolist(), tree.token_ids.tolist(), strict=True))
    assert len(set(edges)) == size, "two siblings carry one token"
    assert (tree.probabilities >= 0).all() and (tree.probabilities <= 1).all()
    assert (np.diff(tree.probabilities) <= 0).all(), "a prefix would not be the best cut"
    assert (tree.token_ids >= 0).all()
    assert tree.token_ids.dtype == tree.parents.dtype == np.dtype(np.int32)
    assert tree.probabilities.dtype == np.dtype(np.float32)


@given(
    learned=st.lists(TOKENS, max_size=4),
    prompt=TOKENS,
    steps=st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=5), st.integers(0, 80))),
)
@settings(max_examples=60, deadline=None)
def test_every_tree_is_well_formed(
    learned: list[list[int]], prompt: list[int], steps: list[tuple[list[int], int]]
) -> None:
    sessions = DraftSessions()
    for run in learned:
        sessions.learn("a", run)
    sessions.open(1, space="a", token_ids=prompt)
    for emitted, max_nodes in steps:
        check_tree(sessions.propose(1, max_nodes), max_nodes)
        sessions.observe(1, emitted)
    sessions.check()


def played(seed: int) -> list[DraftTree]:
    """Draft along a text that repeats itself with changes."""
    chooser = np.random.default_rng(seed)
    text = np.tile(chooser.integers(0, 200, 60), 4)
    text[chooser.integers(0, len(text), 20)] = 7
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=text[:100])
    trees = []
    for position in range(100, len(text), 2):
        trees.append(sessions.propose(1, 24))
        sessions.observe(1, text[position : position + 2])
    return trees


def test_the_same_history_gives_the_same_trees() -> None:
    for first, second in zip(played(3), played(3), strict=True):
        assert np.array_equal(first.token_ids, second.token_ids)
        assert np.array_equal(first.parents, second.parents)
        assert np.array_equal(first.probabilities, second.probabilities)


def test_the_latest_of_contradicting_places_is_believed() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[5, 1, 2, 30, 6, 1, 2, 31, 8, 1, 2])
    assert sessions.propose(1, 1).token_ids.tolist() == [31]


def test_a_smaller_budget_drafts_the_head_of_a_larger_draft() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=np.tile(np.arange(40), 3)[:110])
    large, small = sessions.propose(1, 64), sessions.propose(1, 8)
    assert large.token_ids[:8].tolist() == small.token_ids.tolist()
    assert large.parents[:8].tolist() == small.parents.tolist()


def test_random_tokens_are_expected_to_be_rejected() -> None:
    chooser = np.random.default_rng(0)
    sessions = DraftSessions()
    expected = []
    for sequence_id in range(3):
        tokens = chooser.integers(0, 250_000, 400)
        sessions.open(sequence_id, space="a", token_ids=tokens[:200])
        for token in tokens[200:]:
            expected.append(float(sessions.propose(sequence_id, 64).probabilities.sum()))
            sessions.observe(sequence_id, [token])
        sessions.close(sequence_id)
    assert np.mean(expected) < 0.05


@pytest.mark.parametrize("max_nodes", [1, 16, 64, 1024])
def test_one_token_repeated_is_drafted_as_a_chain(max_nodes: int) -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[9] * 2000)
    tree = sessions.propose(1, max_nodes)
    check_tree(tree, max_nodes)
    assert len(tree) >= min(max_nodes, 16)
    assert tree.token_ids.tolist() == [9] * len(tree)
    assert tree.parents.tolist() == list(range(-1, len(tree) - 1))
