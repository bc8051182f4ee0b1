"""What a drafter is told of a sequence fits what that drafter knows."""

from collections.abc import Sequence

import numpy as np
import pytest

from protos import drafter_pb2 as pb
from verifier.request import Speculation
from verifier.speculation.remote_sequence import RemoteSequence
from verifier.speculation.tree import InvalidTree

PROMPT = [5, 9, 33]


def drafted() -> RemoteSequence:
    """A sequence that a drafter knows, and has sent a chain for."""
    tracked = RemoteSequence(list(PROMPT), len(PROMPT), Speculation())
    tracked.opening(1, "v", 4)
    tracked.keep(chain(len(PROMPT), [7, 8]), 100)
    return tracked


def chain(committed_len: int, token_ids: Sequence[int]) -> pb.Draft:
    count = len(token_ids)
    return pb.Draft(
        sequence_id=1,
        committed_len=committed_len,
        token_ids=token_ids,
        parents=range(-1, count - 1),
        probabilities=[0.5] * count,
    )


def step(tracked: RemoteSequence, *token_ids: int, num_verified: int) -> None:
    """What the engine does once a pass has emitted tokens."""
    tracked.token_ids.extend(token_ids)
    tracked.observe(num_verified, np.array([[1, 2]] * len(token_ids), np.int32))


def test_news_and_feedback_are_told_once() -> None:
    tracked = drafted()
    assert tracked.take_tree().token_ids == (7, 8)
    step(tracked, 7, 3, num_verified=2)
    told = tracked.observation(1, 4)
    assert (list(told.token_ids), told.num_verified) == ([7, 3], 2)
    assert (list(told.successors), told.successors_per_token) == ([1, 2, 1, 2], 2)
    assert not tracked.has_news
    again = tracked.observation(1, 4)
    assert (list(again.token_ids), again.num_verified, len(again.successors)) == ([], 0, 0)


def test_a_drafter_that_takes_over_hears_no_feedback_on_a_tree_of_another() -> None:
    tracked = drafted()
    tracked.take_tree()
    step(tracked, 7, num_verified=2)
    opened = tracked.opening(1, "v", 4)
    assert list(opened.token_ids) == [*PROMPT, 7]
    told = tracked.observation(1, 4)
    assert (told.num_verified, list(told.token_ids)) == (0, [])


def test_feedback_over_two_steps_names_no_tree() -> None:
    tracked = drafted()
    tracked.take_tree()
    step(tracked, 7, num_verified=2)
    step(tracked, 8, num_verified=0)
    told = tracked.observation(1, 4)
    assert (list(told.token_ids), told.num_verified) == ([7, 8], 0)


def test_a_late_tree_is_used_below_what_was_emitted_meanwhile_and_once() -> None:
    tracked = drafted()
    step(tracked, 7, num_verified=0)
    assert tracked.take_tree().token_ids == (8,)
    assert not len(tracked.take_tree())


def test_a_tree_that_does_not_fit_leaves_none() -> None:
    tracked = drafted()
    with pytest.raises(InvalidTree, match="committed_len = 4"):
        tracked.keep(chain(len(PROMPT) + 1, [7]), 100)
    assert not len(tracked.take_tree())


def test_it_is_known_when_a_drafter_was_told_what_it_is_not_to_learn() -> None:
    tracked = drafted()
    step(tracked, 7, 8, 9, num_verified=2)
    assert not tracked.has_taken_back
    tracked.observation(1, 4)
    assert not tracked.has_taken_back
    del tracked.token_ids[-2:]
    assert tracked.has_taken_back
    assert list(tracked.opening(2, "v", 0).token_ids) == [*PROMPT, 7]
