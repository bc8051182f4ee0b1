"""A copy is taken up again behind a token that the model chose instead of the copied one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.drafting.draft import DraftTree
from drafter.drafting.sessions import DraftSessions
from drafter.kernels import occurrences as kernels_places
from drafter.kernels import record as layout
from drafter.kernels.dispatch import pure_python
from drafter.trie.trie import Trie

TEXT = list(range(10, 40))
# Where this many last tokens were seen before, nothing is recovered; the root keeps so many places.
ENOUGH_LEN, PER_SOURCE = 6, 6
MIN_LEN, MAX_LEN = 2, 31

find_places = pure_python(kernels_places.find_places)


def match_len(tokens: list[int], end: int, latest_first: list[int]) -> int:
    """Count how many tokens up to and with `end` are the latest ones."""
    length = 0
    while length < min(len(latest_first), end + 1):
        if tokens[end - length] != latest_first[length]:
            break
        length += 1
    return length


def naive(tokens: list[int], context: list[int]) -> tuple[int, dict[int, int]]:
    """Return the longest match that goes on, and per recovered place the length before it."""
    latest_first = context[::-1]
    goes_on = [end for end in range(len(tokens) - 1) if tokens[end + 1] >= 0]
    ordinary = {end: match_len(tokens, end, latest_first[: MAX_LEN + 1]) for end in goes_on}
    recovered = {
        end + 1: match_len(tokens, end, latest_first[1 : MAX_LEN + 1])
        for end in goes_on
        if end + 1 in ordinary and ordinary[end + 1] == 0
    }
    longest = max(ordinary.values(), default=0)
    return longest, {end: n for end, n in recovered.items() if n >= MIN_LEN}


RUN = st.lists(st.integers(0, 4), min_size=1, max_size=25)


@given(learned=st.lists(RUN, max_size=2), copied=RUN, replaced=st.integers(0, 4), ahead=RUN)
@settings(max_examples=300, deadline=None)
def test_recovered_places_are_those_of_the_context_without_its_last_token(
    learned: list[list[int]], copied: list[int], replaced: int, ahead: list[int]
) -> None:
    said = [*ahead, *copied, *ahead[:3], *copied[: len(copied) // 2 + 1], replaced]
    shared, local = Trie(max_bytes=1 << 20), Trie(max_bytes=1 << 20)
    for run in learned:
        shared.learn(np.array([*copied, *run], np.int32))
    local.append(np.array(said, np.int32))
    record, scratch = layout.new_record(16, 0), layout.new_scratch(16)
    number = int(find_places(local.arena, shared.arena, record, scratch, np.int64(0)))
    pairs = scratch[layout.PLACES : layout.PLACES + 2 * number].reshape(-1, 2).tolist()
    tokens = [said, shared.live_tokens().tolist()]
    expected = [naive(each, said) for each in tokens]
    is_needed = max(longest for longest, _ in expected) < ENOUGH_LEN
    for source, (_, places) in enumerate(expected):
        found = {
            position: kind >> 2
            for position, kind in pairs
            if kind & 1 == source and kind & layout.RECOVERED
        }
        assert found.items() <= places.items() if is_needed else not found
        if is_needed and len(places) <= PER_SOURCE:
            assert found == places


def chain(tree: DraftTree) -> list[int]:
    """Follow the most probable child from the root."""
    path, at = [], -1
    for node, parent in enumerate(tree.parents.tolist()):
        if parent == at:
            path.append(int(tree.token_ids[node]))
            at = node
    return path


@pytest.mark.parametrize("learned", [False, True])
def test_what_followed_the_replaced_token_is_drafted_first(learned: bool) -> None:
    sessions = DraftSessions()
    sessions.learn("a", TEXT if learned else [1])
    prompt = [*TEXT, 1, *TEXT[:12]] if not learned else TEXT[:12]
    sessions.open(1, space="a", token_ids=prompt)
    sessions.observe(1, [99])
    tree = sessions.propose(1, 16)
    assert chain(tree)[:2] == TEXT[13:15]
    assert tree.sources[0] == (2 if learned else 1)


def test_an_ordinary_match_that_is_long_leaves_nothing_to_recover() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[*TEXT, 1, *TEXT[:11], 99, 98, 2, *TEXT[:11], 99])
    tree = sessions.propose(1, 4)
    assert tree.token_ids[0] == 98
    assert TEXT[12] not in tree.token_ids
