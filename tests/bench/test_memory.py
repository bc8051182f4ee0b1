"""The promises of the shared memory over real processes that are killed and replaced."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.memory.fault_traffic import Stretch
from bench.memory.faults import cost
from bench.memory.runs import agreement, crash
from bench.memory.server import server
from bench.memory.sizes import size
from drafter.drafting.sessions import DraftSessions

pytestmark = pytest.mark.slow

STRETCH = Stretch(
    step_ms=10.0,
    per_forward=1.25,
    tokens_per_s=1000.0,
    tokens_per_step=10.0,
    longest_ms=30.0,
    drafter_cores=0.1,
)
RUNS = st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=12), max_size=6)


def test_killed_drafter_gets_everything_older_than_a_second_back_once() -> None:
    found = crash(seconds=2.0, runs_per_s=200.0)
    assert found.older_than_1_s > 50
    assert found.back == found.older_than_1_s
    assert found.counted_twice == 0


def test_producers_that_are_stopped_or_killed_end_with_equal_digests() -> None:
    found = agreement(num_runs=900, num_producers=2, restarts=1)
    assert (found.num_kills, found.num_stops) == (1, 1)
    assert found.digests_equal
    assert found.counted_twice == 0
    assert found.num_runs - found.unacknowledged <= found.runs_held <= found.num_runs


@given(st.floats(0.5, 2.0), st.floats(0.5, 2.0))
def test_machine_that_becomes_slower_is_no_cost_of_a_fault(slower: float, fault: float) -> None:
    before, found, after = (
        replace(STRETCH, step_ms=STRETCH.step_ms * factor, tokens_per_s=1000.0 / factor)
        for factor in (1.0, slower * fault, slower**2)
    )
    result = cost([(found, before, after)] * 3)
    assert result.step == pytest.approx(fault)
    assert result.tokens_per_s == pytest.approx(1 / fault)
    assert (result.per_forward, result.tokens_per_step, result.rounds) == (1.0, 1.0, 3)


def test_waiting_outside_the_model_shows_whatever_the_machine_does() -> None:
    found = replace(STRETCH, step_ms=30.0, per_forward=1.5)
    assert cost([(found, STRETCH, STRETCH)]).per_forward == pytest.approx(1.2)


def test_bytes_of_a_memory_are_those_of_its_keys() -> None:
    with server() as redis:
        found = size(redis, 1000)
    total = found.log_bytes + found.snapshot_bytes + found.other_bytes
    assert found.num_entries >= 1
    assert min(found.log_bytes, found.snapshot_bytes, found.other_bytes) > 0
    assert found.redis_bytes_per_token == total / 1000


@settings(max_examples=60, deadline=None)
@given(RUNS, RUNS, st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_what_one_namespace_learns_never_changes_what_another_drafts(
    ours: list[list[int]], theirs: list[list[int]], prompt: list[int]
) -> None:
    drafts = []
    for foreign in ([], theirs):
        sessions = DraftSessions()
        for run in foreign:
            sessions.learn("v/theirs", run)
        for run in ours:
            sessions.learn("v/ours", run)
        sessions.open(1, space="v/ours", token_ids=prompt)
        tree = sessions.propose(1, 8)
        drafts.append((tree.token_ids.tolist(), tree.parents.tolist(), tree.probabilities.tolist()))
    assert drafts[0] == drafts[1]
