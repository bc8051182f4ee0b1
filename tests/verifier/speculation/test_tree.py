"""Draft trees: every operation gives a tree, and hostile input never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models.draft_trees import paths, trees
from verifier.speculation.tree import (
    DraftTree,
    InvalidTree,
    accept,
    best_chain,
    checked_tree,
    depths,
    limit_depth,
    prefix,
    reroot,
)


def is_valid(tree: DraftTree) -> bool:
    checked = checked_tree(
        tree.token_ids, tree.parents, tree.probabilities, vocabulary_size=4, max_nodes=64
    )
    return checked.token_ids == tree.token_ids


@given(trees(), st.integers(0, 20))
def test_a_prefix_is_a_tree(tree: DraftTree, num_nodes: int) -> None:
    cut = prefix(tree, num_nodes)
    assert is_valid(cut)
    assert len(cut) == min(num_nodes, len(tree))
    assert paths(cut) <= paths(tree)


@given(trees(), st.integers(0, 6))
def test_limit_depth_keeps_exactly_the_shallow_paths(tree: DraftTree, max_depth: int) -> None:
    cut = limit_depth(tree, max_depth)
    assert is_valid(cut)
    assert paths(cut) == {path for path in paths(tree) if len(path) <= max_depth}


@given(trees(), st.integers(0, 10))
def test_the_best_chain_is_one_path_of_first_children(tree: DraftTree, max_nodes: int) -> None:
    chain = best_chain(tree, max_nodes)
    assert is_valid(chain)
    assert chain.parents == tuple(range(-1, len(chain) - 1))
    assert not len(chain) or chain.token_ids[0] == tree.token_ids[0]


@given(trees(), st.lists(st.integers(0, 3), max_size=4))
def test_rerooting_keeps_exactly_what_lies_below_the_path(tree: DraftTree, path: list[int]) -> None:
    below = reroot(tree, path)
    assert is_valid(below)
    expected = {p[len(path) :] for p in paths(tree) if p[: len(path)] == tuple(path)} - {()}
    assert paths(below) == expected


@given(trees())
def test_depths_are_path_lengths(tree: DraftTree) -> None:
    assert sorted(depths(tree.parents)) == sorted(len(path) for path in paths(tree))


@given(trees(), st.lists(st.integers(0, 3), min_size=21, max_size=21))
def test_acceptance_walks_the_longest_agreeing_path(tree: DraftTree, target: list[int]) -> None:
    """The target emits `target` whatever the tree; acceptance only decides how much at once."""
    depth_of = [0, *depths(tree.parents)]
    accepted = accept(tree, lambda row: target[depth_of[row]])
    longest = max((len(p) for p in paths(tree) if p == tuple(target[: len(p)])), default=0)
    assert len(accepted.path) == longest
    assert accepted.token_ids == target[: longest + 1]
    assert accepted.rows == [0, *(node + 1 for node in accepted.path)]


@given(trees(), st.integers(0, 5))
def test_where_nothing_can_be_chosen_the_walk_ends(tree: DraftTree, length: int) -> None:
    asked: list[int] = []

    def choose(row: int) -> int | None:
        asked.append(row)
        return tree.token_ids[row] if row < len(tree) and len(asked) <= length else None

    accepted = accept(tree, choose)
    assert len(accepted.token_ids) <= length
    assert asked == accepted.rows


@pytest.mark.parametrize(
    ("token_ids", "parents", "probabilities", "message"),
    [
        ([1], [0], [0.5], "parents"),
        ([1, 2], [-1, 1], [0.5, 0.5], "parents"),
        ([1], [-2], [0.5], "parents"),
        ([4], [-1], [0.5], "token_ids"),
        ([-1], [-1], [0.5], "token_ids"),
        ([1, 1], [-1, -1], [0.5, 0.5], "siblings"),
        ([1], [-1], [float("nan")], "probabilities"),
        ([1], [-1], [1.5], "probabilities"),
        ([1, 2], [-1, -1], [0.1, 0.5], "falling"),
        ([1, 2], [-1], [0.5], "parents"),
        ([1] * 65, list(range(-1, 64)), [1.0] * 65, "65 nodes"),
    ],
)
def test_a_hostile_draft_is_refused_with_its_fault(
    token_ids: list[int], parents: list[int], probabilities: list[float], message: str
) -> None:
    with pytest.raises(InvalidTree, match=message):
        checked_tree(token_ids, parents, probabilities, vocabulary_size=4, max_nodes=64)


def test_rerooting_makes_probabilities_those_below_what_was_emitted() -> None:
    tree = DraftTree((1, 2, 3, 2), (-1, 0, 1, -1), (0.5, 0.25, 0.125, 0.1), (1, 2, 3, 1))
    assert reroot(tree, [1]) == DraftTree((2, 3), (-1, 0), (0.5, 0.25), (2, 3))
