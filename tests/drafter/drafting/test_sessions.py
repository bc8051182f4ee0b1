"""The in-process surface: its loop, what it learns, what it refuses without a trace."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from drafter.drafting.draft import DraftTree
from drafter.drafting.sessions import DraftSessions
from rpc.contract import Learn
from tests.support.memory.trie_index import holds

TEXT = [10, 11, 12, 13, 14, 15, 16, 17]


def opened(**options: object) -> DraftSessions:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[*TEXT, *TEXT[:3]], **options)  # type: ignore[arg-type]
    return sessions


def chain(tree: DraftTree) -> list[int]:
    """Follow the most probable child from the root."""
    path: list[int] = []
    at = -1
    while True:
        below = [node for node in range(len(tree)) if tree.parents[node] == at]
        if not below:
            return path
        at = below[0]
        path.append(int(tree.token_ids[at]))


def test_a_repeated_prompt_is_drafted_at_once() -> None:
    assert chain(opened().propose(1, 16))[:3] == TEXT[3:6]


def test_observed_tokens_move_the_draft_on() -> None:
    sessions = opened()
    sessions.observe(1, TEXT[3:5])
    assert chain(sessions.propose(1, 16))[:2] == TEXT[5:7]


def test_a_prediction_is_drafted_like_a_prompt() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2, 10, 11], prediction=TEXT)
    assert chain(sessions.propose(1, 16))[:3] == TEXT[2:5]


def source_of(tree: DraftTree, token: int) -> int:
    return int(tree.sources[tree.token_ids.tolist().index(token)])


def test_each_node_names_whose_evidence_speaks_for_it() -> None:
    local, namespace, successors = 1, 2, 3
    assert source_of(opened().propose(1, 16), TEXT[3]) == local
    sessions = DraftSessions()
    sessions.learn("a", TEXT)
    sessions.open(1, space="a", token_ids=TEXT[:3])
    assert source_of(sessions.propose(1, 16), TEXT[3]) == namespace
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2, 3])
    for token in (4, 5):
        sessions.observe(1, [token], successors=[[90 + token, *range(60, 67)]])
    sessions.observe(1, [3], successors=[[4, *range(60, 67)]])
    assert source_of(sessions.propose(1, 16), 62) == successors


@pytest.mark.parametrize(
    ("learn", "found"), [(Learn.ALL, True), (Learn.OUTPUT, False), (Learn.NONE, False)]
)
def test_close_learns_the_prompt_only_when_asked(learn: Learn, found: bool) -> None:
    sessions = opened(learn=learn)
    sessions.observe(1, [50, 51, 52])
    sessions.close(1)
    learned = sessions.trie("a")
    assert holds(learned, np.array(TEXT[:2], np.int32)) is found
    assert holds(learned, np.array([50, 51], np.int32)) is (learn is not Learn.NONE)


def told(sessions: DraftSessions, space: str, token_ids: list[int]) -> list[tuple[object, ...]]:
    """What a sequence that begins with these tokens is drafted there."""
    sessions.open(9, space=space, token_ids=token_ids, learn=Learn.NONE)
    tree = sessions.propose(9, 16)
    sessions.drop(9)
    return [tuple(part) for part in (tree.token_ids, tree.parents, tree.probabilities)]


def test_a_sequence_that_must_not_be_learned_from_leaves_no_trace_in_others_drafts() -> None:
    """Not in the runs, not in what may follow a token, not in how far drafts are trusted."""
    sessions = DraftSessions()
    sessions.learn("a", TEXT)
    before = [told(sessions, "a", TEXT[:n]) for n in range(1, len(TEXT))]
    sessions.open(1, space="a", token_ids=[*TEXT, *TEXT[:3]], learn=Learn.NONE)
    for _ in range(30):
        sessions.propose(1, 16)
        sessions.observe(1, [TEXT[2], 50], successors=[[50, 51, 52]] * 2)
    sessions.close(1)
    assert [told(sessions, "a", TEXT[:n]) for n in range(1, len(TEXT))] == before
    # One that may be learned from would have left some.
    sessions.open(1, space="a", token_ids=[*TEXT, *TEXT[:3]])
    sessions.propose(1, 16)
    sessions.observe(1, [TEXT[2], 50], successors=[[50, 51, 52]] * 2)
    assert [told(sessions, "a", TEXT[:n]) for n in range(1, len(TEXT))] != before


def test_a_reopened_sequence_learns_its_output_from_before() -> None:
    sessions = DraftSessions()
    options = {"space": "a", "learn": Learn.OUTPUT, "num_prompt": 2}
    sessions.open(1, token_ids=[1, 2, 50, 51], **options)  # type: ignore[arg-type]
    sessions.observe(1, [52])
    sessions.close(1)
    assert sessions.trie("a").live_tokens().tolist() == [50, 51, 52, -1]


def test_spaces_share_nothing_and_forget_is_complete() -> None:
    sessions = opened()
    sessions.close(1)
    sessions.open(2, space="b", token_ids=TEXT[:2])
    assert not set(sessions.propose(2, 16).token_ids.tolist()) & set(TEXT[2:])
    sessions.open(3, space="a", token_ids=TEXT[:2])
    assert chain(sessions.propose(3, 16))[:2] == TEXT[2:4]
    sessions.forget("a")
    assert not set(sessions.propose(3, 16).token_ids.tolist()) & set(TEXT[2:])
    sessions.close(3)
    assert sessions.trie("a").num_tokens == 0


def test_a_sink_receives_the_run_instead_of_the_trie() -> None:
    received: list[tuple[str, NDArray[np.int32]]] = []
    sessions = DraftSessions(sink=lambda space, run: received.append((space, run)))
    sessions.open(1, space="a", token_ids=[1, 2])
    sessions.observe(1, [3])
    sessions.close(1)
    assert [(name, run.tolist()) for name, run in received] == [("a", [1, 2, 3])]
    assert sessions.trie("a").num_tokens == 0


def test_a_dropped_sequence_leaves_nothing_behind() -> None:
    sessions = opened()
    sessions.drop(1)
    assert sessions.trie("a").num_tokens == 0
    assert sessions.stats().num_sequences == 0


def test_stats_count_verified_nodes_on_the_emitted_path() -> None:
    sessions = opened()
    tree = sessions.propose(1, 4)
    assert tree.token_ids.tolist() == TEXT[3:7]
    sessions.observe(1, TEXT[3:6], num_verified=2)
    stats = sessions.stats()
    assert (stats.num_proposed, stats.num_verified, stats.num_accepted) == (4, 2, 2)
    assert stats.num_emitted == 3


def test_successors_draft_where_nothing_matches() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2])
    sessions.observe(1, [3], successors=[[3, 40, 41]])
    sessions.open(2, space="a", token_ids=[7, 2])
    drafted = set(sessions.propose(2, 8).token_ids.tolist())
    assert {3, 40, 41} <= drafted


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, []), (1, [0]), (1_000_100, list(range(100, 116)))]
)
def test_prompts_of_any_length_are_drafted_from(num_tokens: int, expected: list[int]) -> None:
    sessions = DraftSessions()
    prompt = np.arange(num_tokens, dtype=np.int32) % 1000
    sessions.open(1, space="a", token_ids=prompt)
    drafted = sessions.propose(1, 16).token_ids.tolist()
    assert sorted(set(drafted)) == expected
    assert len(drafted) <= 16
    sessions.observe(1, [5])
    sessions.close(1)
    sessions.check()


def test_budgets_from_nothing_to_absurd_work() -> None:
    sessions = opened()
    assert len(sessions.propose(1, 0)) == 0
    assert 0 < len(sessions.propose(1, 1 << 60)) <= 1024
    assert len(sessions.propose(1, 1)) == 1


BAD_CALLS: list[tuple[str, Callable[[DraftSessions], object], type[Exception]]] = [
    ("unknown propose", lambda s: s.propose(9, 4), KeyError),
    ("unknown observe", lambda s: s.observe(9, [1]), KeyError),
    ("unknown close", lambda s: s.close(9), KeyError),
    ("open twice", lambda s: s.open(1, space="a", token_ids=[1]), ValueError),
    ("negative budget", lambda s: s.propose(1, -1), ValueError),
    ("negative id", lambda s: s.observe(1, [-1]), ValueError),
    ("huge id", lambda s: s.observe(1, [1 << 31]), ValueError),
    ("huge prompt id", lambda s: s.open(2, space="a", token_ids=[1 << 70]), ValueError),
    ("bad prediction", lambda s: s.open(2, space="a", token_ids=[1], prediction=[-3]),
     ValueError),
    ("too many verified", lambda s: s.observe(1, [1], num_verified=999), ValueError),
    ("negative verified", lambda s: s.observe(1, [1], num_verified=-1), ValueError),
    ("too many prompt", lambda s: s.open(2, space="a", token_ids=[1], num_prompt=2),
     ValueError),
    ("successor rows", lambda s: s.observe(1, [1, 2], successors=[[1]]), ValueError),
    ("successor ids", lambda s: s.observe(1, [1], successors=[[-4]]), ValueError),
    ("learn", lambda s: s.learn("a", [-4]), ValueError),
    ("unload busy", lambda s: s.unload("a"), ValueError),
    ("unload unknown", lambda s: s.unload("x"), KeyError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "error"), BAD_CALLS, ids=[row[0] for row in BAD_CALLS])
def test_a_bad_call_raises_and_changes_nothing(
    name: str, call: Callable[[DraftSessions], object], error: type[Exception]
) -> None:
    sessions = opened()
    sessions.propose(1, 8)
    before = (sessions.stats(), sessions.trie("a").digest())
    with pytest.raises(error):
        call(sessions)
    assert (sessions.stats(), sessions.trie("a").digest()) == before
    sessions.check()


def test_a_closed_sequence_is_gone() -> None:
    sessions = opened()
    sessions.close(1)
    with pytest.raises(KeyError, match="sequence_id: 1 is not open"):
        sessions.observe(1, [1])


def test_successors_of_another_space_are_not_drafted() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2])
    sessions.observe(1, [3], successors=[[3, 40, 41]])
    sessions.open(2, space="b", token_ids=[7, 2])
    assert not set(sessions.propose(2, 8).token_ids.tolist()) & {3, 40, 41}
