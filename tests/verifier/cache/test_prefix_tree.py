"""The tree finds the longest beginning that any noted sequence has, as a search of all would."""

import random

from hypothesis import given
from hypothesis import strategies as st

from verifier.cache.pages import PAGE
from verifier.cache.prefix_tree import PrefixTree, num_shared


def text(rng: random.Random, texts: list[list[int]]) -> list[int]:
    """A new text, mostly one that goes on from another."""
    known = rng.choice(texts) if texts and rng.random() < 0.8 else []
    start = rng.choice([0, len(known), rng.randrange(len(known) + 1)])
    return known[:start] + [rng.randrange(3) for _ in range(rng.randrange(1, 2 * PAGE))]


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_the_longest_known_beginning_is_found(seed: int, num_texts: int) -> None:
    rng = random.Random(seed)
    tree = PrefixTree()
    noted: dict[str, list[list[int]]] = {"a": [], "b": []}
    held: dict[int, tuple[str, list[int]]] = {}  # all tokens up to a page's end
    for _ in range(num_texts):
        namespace = rng.choice("ab")
        new = text(rng, noted[namespace])
        table = [len(held) + i for i in range(-(-len(new) // PAGE))]
        known = tree.add(namespace, new, table)
        for index, (page, own) in enumerate(zip(known, table, strict=False)):
            tokens = new[: PAGE * (index + 1)]
            if page == own:
                held[page] = (namespace, tokens)
            assert held[page] == (namespace, tokens), "another page holds something else"
        noted[namespace].append(new)
        held |= {page: ("", []) for page in table if page not in held}
        asked = text(rng, noted[namespace])
        pages, length = tree.find(namespace, asked)
        assert length == max(num_shared(asked, other) for other in noted[namespace])
        assert len(pages) == -(-length // PAGE)
        for index, page in enumerate(pages):
            assert held[page][0] == namespace
            end = min(PAGE * (index + 1), length)
            assert held[page][1][:end] == asked[:end]


def test_forgotten_pages_are_not_found_and_leave_nothing() -> None:
    tree = PrefixTree()
    tokens = list(range(2 * PAGE + 5))
    assert tree.add("a", tokens, [7, 3, 9]) == [7, 3, 9]
    assert tree.find("a", tokens) == ([7, 3, 9], len(tokens))
    assert tree.find("b", tokens) == ([], 0)
    tree.forget(9)
    assert tree.find("a", tokens) == ([7, 3], 2 * PAGE)
    tree.forget(3)
    tree.forget(7)
    assert tree.find("a", tokens) == ([], 0)
    assert not tree._roots and not tree._nodes


@given(st.lists(st.integers(0, 1), max_size=600), st.lists(st.integers(0, 1), max_size=600))
def test_what_is_shared_ends_at_the_first_difference(first: list[int], second: list[int]) -> None:
    for ours, theirs in ((first, second), (first, first + second), ([*first, 2], first + second)):
        expected = 0
        while expected < min(len(ours), len(theirs)) and ours[expected] == theirs[expected]:
            expected += 1
        assert num_shared(ours, theirs) == expected
