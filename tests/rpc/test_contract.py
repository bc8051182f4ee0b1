"""What several packages call by the same name is one thing: enumerations and draft trees."""

import enum
from dataclasses import fields
from typing import Any, get_args

import pytest

from drafter.drafting.draft import DraftTree as DraftedTree
from lookahead.client import results
from lookahead.terminal.display import STYLES
from lookahead.top.page import SOURCE_NAMES
from protos import drafter_pb2, verifier_pb2
from rpc.contract import Learn, Source
from verifier.request import Mode
from verifier.speculation.tree import DraftTree as VerifiedTree
from verifier.text.stopping import FinishReason

TABLES: list[tuple[type[enum.Enum], Any, str]] = [
    (Learn, drafter_pb2.Learn, "LEARN_"),
    (Learn, verifier_pb2.Speculation.Learning, "LEARNING_"),
    (Source, verifier_pb2.DraftSource, "DRAFT_SOURCE_"),
    (Mode, verifier_pb2.Speculation.Mode, "MODE_"),
    (FinishReason, verifier_pb2.Finished.FinishReason, "FINISH_REASON_"),
]


@pytest.mark.parametrize(("table", "wire", "prefix"), TABLES, ids=lambda each: str(each))
def test_an_enumeration_has_the_contracts_names_and_numbers(
    table: type[enum.Enum], wire: Any, prefix: str
) -> None:
    named = {name.removeprefix(prefix): number for name, number in wire.items() if number}
    assert {member.name: member.value for member in table if member.value} == named


def test_the_drafter_numbers_its_sources_as_the_verifier_does() -> None:
    drafted = {n.removeprefix("SOURCE_"): i for n, i in drafter_pb2.Source.items() if i}
    assert drafted == {source.name: source.value for source in Source if 0 < source < 4}


@pytest.mark.parametrize("number", [-1, 5, 2**31 - 1])
def test_a_source_that_means_nothing_is_unknown(number: int) -> None:
    assert Source.of(number) is Source.UNKNOWN


def test_every_source_has_a_label_a_style_and_a_column() -> None:
    labels = {source.label for source in Source}
    assert set(get_args(results.Source)) == labels
    assert set(STYLES) - {None} == labels
    assert set(SOURCE_NAMES) == labels - {Source.UNKNOWN.label}


@pytest.mark.parametrize(
    ("tree", "message", "own"),
    [
        (DraftedTree, drafter_pb2.Draft, {"sequence_id", "committed_len"}),
        (VerifiedTree, drafter_pb2.Draft, {"sequence_id", "committed_len"}),
        (results.DraftTree, verifier_pb2.DraftTree, set()),
    ],
)
def test_every_draft_tree_has_the_contracts_fields(tree: Any, message: Any, own: set[str]) -> None:
    ours = {field.name for field in fields(tree)} - {"is_own"}  # said inside the verifier only
    assert ours == {field.name for field in message.DESCRIPTOR.fields} - own
