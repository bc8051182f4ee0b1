"""Drafts that a constraint implies: lossless, cheap, and several tokens a step."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.contract import Source
from tests.support.models.constrained_runs import SAMPLINGS, constraints, knowing, request, run
from tests.support.models.draft_trees import paths
from tests.support.models.engine_runs import ids_of
from tests.support.models.fake_drafts import FakeDrafts
from tests.support.models.small_tokenizers import small_tokenizer
from verifier.constraints.constraint import Constraint, Kind
from verifier.request import Mode
from verifier.speculation.grammar_draft import MAX_CHOICES, grammar_draft, merged
from verifier.speculation.tree import EMPTY_TREE, DraftTree, checked_tree, depths

RECORD = {
    "type": "object",
    "properties": {
        "temperature": {"const": "unknown"},
        "measurement": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["temperature", "measurement"],
    "additionalProperties": False,
}


@dataclass
class Words:
    """Outputs that are one of some sequences of ids."""

    words: list[list[int]]

    def choices(self, limit: int) -> list[int]:
        found = sorted({word[0] for word in self.words if word})
        return found if len(found) <= limit else []

    def after(self, token_id: int) -> "Words":
        return Words([word[1:] for word in self.words if word[:1] == [token_id]])


IDS = st.integers(0, 9)
WORDS = st.lists(st.lists(IDS, max_size=6), min_size=1, max_size=8).map(Words)


def check(tree: DraftTree) -> None:
    """Raise unless it is a tree whose nodes come in falling order, parents first."""
    checked_tree(
        tree.token_ids, tree.parents, tree.probabilities, vocabulary_size=10, max_nodes=100
    )


@given(WORDS, st.integers(0, 12), st.integers(0, 7))
def test_a_draft_is_a_tree_of_allowed_beginnings(words: Words, nodes: int, depth: int) -> None:
    tree = grammar_draft(words, nodes, depth)
    check(tree)
    assert len(tree) <= nodes
    assert max(depths(tree.parents), default=0) <= depth
    assert all(any(tuple(w[: len(p)]) == p for w in words.words) for p in paths(tree))


def test_what_is_forced_is_certain_to_the_end() -> None:
    tree = grammar_draft(Words([[4, 2, 7, 7, 1]]), 12, 12)
    assert tree.token_ids == (4, 2, 7, 7, 1)
    assert set(tree.probabilities) == {1.0}
    assert set(tree.sources) == {Source.CONSTRAINT}


def test_few_choices_share_and_many_are_not_drafted() -> None:
    few = grammar_draft(Words([[1], [2], [3], [4]]), 12, 12)
    assert few.probabilities == (0.25,) * 4
    many = Words([[i] for i in range(MAX_CHOICES + 1)])
    assert grammar_draft(many, 12, 12) == DraftTree((), (), (), is_own=True)


def drafted(words: Words) -> DraftTree:
    return grammar_draft(words, 12, 12)


@given(WORDS.map(drafted), WORDS.map(drafted))
def test_merging_keeps_the_first_tree_and_what_the_second_adds_below_it(
    certain: DraftTree, other: DraftTree
) -> None:
    tree = merged(certain, other)
    check(tree)
    assert paths(certain) <= paths(tree) <= paths(certain) | paths(other)
    inner = {(), *(p[:-1] for p in paths(certain))}
    beside = {
        p for p in paths(other) if any(p[:i] in inner and p[: i + 1] not in paths(certain)
                                       for i in range(len(p)))
    } if certain else set()  # fmt: skip
    assert paths(tree) == paths(certain) | (paths(other) - beside)


def test_merging_with_nothing_changes_nothing() -> None:
    tree = drafted(Words([[1, 2], [3]]))
    assert merged(tree, EMPTY_TREE) == tree


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_outputs_are_the_same_with_forced_tokens_drafted(kind: str, sampling: str) -> None:
    made = constraints()
    plain, drafts = (
        run(kind, [request(kind, c, mode=m, sampling=SAMPLINGS[sampling]) for c in made])
        for m in (Mode.OFF, Mode.AUTO)
    )
    assert [ids_of(runs) for runs, _ in drafts] == [ids_of(runs) for runs, _ in plain]
    assert sum(end.num_accepted_tokens for _, end in drafts) > 0


def test_a_schema_takes_several_tokens_a_step_without_any_drafter() -> None:
    form = Constraint(Kind.JSON_SCHEMA, (json.dumps(RECORD),))
    [(runs, end)] = run("byte_level", [request("byte_level", form, mode=Mode.AUTO)])
    assert len(ids_of(runs)) / end.num_steps > 2
    assert {source for each in runs for source in each.sources} == {Source.CONSTRAINT}


def test_a_drafter_and_the_grammar_together_change_no_output() -> None:
    made = constraints()
    plain = run("gemma", [request("gemma", c) for c in made])
    answers = [ids_of(runs) for runs, _ in plain]
    both = run(
        "gemma", [request("gemma", c, mode=Mode.TREE) for c in made], knowing("gemma", answers)
    )
    assert [ids_of(runs) for runs, _ in both] == answers


def test_a_tree_with_nodes_of_our_own_is_no_feedback_for_the_drafter() -> None:
    verified: list[int] = []

    class Listening(FakeDrafts):
        def observe(self, sequence_id: int, *, num_verified: int, successors: object) -> None:  # type: ignore[override]
            verified.append(num_verified)

    tokenizer = small_tokenizer("gemma")
    nowhere = Listening(lambda *_: DraftTree((tokenizer.size - 1,), (-1,), (0.5,)))
    form = Constraint(Kind.CHOICES, ("the quick brown fox jumps over",))
    # Fewer tokens than the text has: before its end a next one is always implied.
    run("gemma", [request("gemma", form, mode=Mode.TREE, num_tokens=16)], nowhere)
    assert verified
    assert set(verified) == {0}
