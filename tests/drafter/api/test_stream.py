"""Draft streams: what is drafted, when, for whom, and what a stream leaves behind."""

import asyncio
import random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from protos import drafter_pb2 as pb
from tests.support.servers.running_drafter import (
    NEXT,
    SAID,
    START,
    TEXT,
    drafter,
    drafts,
    make_observe,
    make_open,
)
from tests.support.waiting import eventually


async def test_a_repeated_prompt_is_drafted_at_once() -> None:
    async with drafter() as served:
        engine = served.stream()
        response = await engine.send(open=[make_open()])
        (draft,) = response.drafts
        assert (draft.sequence_id, draft.committed_len) == (1, 56)
        assert drafts(draft, NEXT)
        # All of it is in the prompt: nothing else can speak for it.
        assert list(draft.sources) == [pb.SOURCE_LOCAL] * len(draft.token_ids)
        await engine.end()


async def test_every_prefix_of_a_draft_is_a_tree_in_falling_order() -> None:
    generator = random.Random(1)
    text = [generator.randrange(12) for _ in range(600)]
    async with drafter() as served:
        engine = served.stream()
        for sequence_id in range(20):
            response = await engine.send(
                open=[make_open(sequence_id, token_ids=text[: 100 + sequence_id], max_nodes=64)]
            )
            (draft,) = response.drafts
            assert 0 < len(draft.token_ids) <= 64
            assert len(draft.parents) == len(draft.probabilities) == len(draft.token_ids)
            assert all(-1 <= parent < node for node, parent in enumerate(draft.parents))
            falling = sorted(draft.probabilities, reverse=True)
            assert list(draft.probabilities) == pytest.approx(falling)
            assert all(0 < p <= 1 for p in draft.probabilities)


async def test_each_sequence_gets_the_one_draft_it_asked_for() -> None:
    async with drafter() as served:
        engine = served.stream()
        openings = [make_open(1), make_open(2, max_nodes=0), make_open(3, max_nodes=4)]
        response = await engine.send(open=openings)
        assert [d.sequence_id for d in response.drafts] == [1, 3]
        assert len(response.drafts[1].token_ids) <= 4
        observations = [make_observe(2, max_nodes=16), make_observe(3, token_ids=[26])]
        response = await engine.send(observe=observations)
        assert [(d.sequence_id, d.committed_len) for d in response.drafts] == [(2, 56)]


async def test_observed_tokens_and_successors_move_the_draft_on() -> None:
    async with drafter() as served:
        engine = served.stream()
        await engine.send(open=[make_open()])
        observation = make_observe(
            token_ids=TEXT[16:18],
            num_verified=2,
            successors=[27, 99, 28, 98],
            successors_per_token=2,
            max_nodes=16,
        )
        (draft,) = (await engine.send(observe=[observation])).drafts
        assert draft.committed_len == 58
        assert drafts(draft, TEXT[18:22])


async def test_a_prediction_is_drafted_like_a_prompt() -> None:
    async with drafter() as served:
        engine = served.stream()
        opening = make_open(token_ids=START, prediction=TEXT)
        (draft,) = (await engine.send(open=[opening])).drafts
        assert drafts(draft, NEXT)
        assert draft.committed_len == 16


async def test_sequence_ids_belong_to_their_stream() -> None:
    async with drafter() as served:
        first, second = served.stream(), served.stream()
        await first.send(open=[make_open(7)])
        other = [*SAID, *SAID[:16]]
        (draft,) = (await second.send(open=[make_open(7, token_ids=other)])).drafts
        assert drafts(draft, SAID[16:18]) and not drafts(draft, NEXT)
        (draft,) = (await first.send(observe=[make_observe(7, max_nodes=8)])).drafts
        assert drafts(draft, NEXT) and not drafts(draft, SAID[16:18])


async def test_unknown_sequences_are_named_and_can_be_opened_again() -> None:
    async with drafter() as served:
        engine = served.stream()
        response = await engine.send(observe=[make_observe(5, token_ids=[1], max_nodes=8)])
        assert (list(response.unknown_sequence_ids), len(response.drafts)) == ([5], 0)
        response = await engine.send(open=[make_open(5)])
        assert (list(response.unknown_sequence_ids), len(response.drafts)) == ([], 1)


async def test_a_closed_sequence_is_unknown_and_may_be_closed_again() -> None:
    async with drafter() as served:
        engine = served.stream()
        await engine.send(open=[make_open()])
        await engine.send(close=[pb.Close(sequence_id=1)])
        response = await engine.send(
            close=[pb.Close(sequence_id=1)], observe=[make_observe(max_nodes=8)]
        )
        assert list(response.unknown_sequence_ids) == [1]
        assert served.sessions.stats().num_sequences == 0


@pytest.mark.parametrize("how", ["half-closed", "cancelled"])
async def test_a_stream_that_ends_leaves_nothing_behind(how: str) -> None:
    async with drafter() as served:
        engine = served.stream()
        await engine.send(open=[make_open(1), make_open(2)])
        assert served.sessions.stats().num_sequences == 2
        if how == "half-closed":
            await engine.end()
        else:
            engine.call.cancel()
        await eventually(lambda: served.sessions.stats().num_sequences == 0)
        assert not await served.knows("n")


async def test_open_sequences_are_bounded_in_tokens_over_all_streams() -> None:
    async with drafter(max_live_tokens=1 << 20) as served:
        first, second = served.stream(), served.stream()
        await first.send(open=[make_open(token_ids=[1] * 1_000_000)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.send(open=[make_open(token_ids=[1] * 100_000)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = await rpc_status.aio.from_call(second.call)
        assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        # What the first gives back, the next may take: observed tokens and refusals included.
        await first.send(observe=[make_observe(token_ids=[1] * 4096)])
        await first.end()
        third = served.stream()
        await third.send(open=[make_open(token_ids=[1] * 1_000_000)])
        await third.end()
        fourth = served.stream()
        await fourth.send(open=[make_open(token_ids=[1] * (2**20 - 2048))])


async def test_a_million_token_prompt_does_not_stop_the_others() -> None:
    async with drafter() as served:
        small, large = served.stream(), served.stream()
        await small.send(open=[make_open()])
        opening = make_open(token_ids=list(range(1_000_000)))
        pending = asyncio.create_task(large.send(open=[opening]))
        num_answers = 0
        while not pending.done():
            await small.send(observe=[make_observe(max_nodes=8)])
            num_answers += 1
        assert (await pending).drafts[0].committed_len == 1_000_000
        assert num_answers > 10


async def test_random_traffic_matches_a_naive_account() -> None:
    """Whatever an engine sends, lengths, unknown ids and drafts are those of a dictionary."""
    generator = random.Random(7)
    async with drafter() as served:
        engine = served.stream()
        lens: dict[int, int] = {}
        for _ in range(150):
            fields, wanted, unknown = random_request(generator, lens)
            response = await engine.send(**fields)
            assert sorted(response.unknown_sequence_ids) == sorted(unknown)
            got = {d.sequence_id: d.committed_len for d in response.drafts}
            assert got == wanted
            assert served.sessions.stats().num_sequences == len(lens)
        await engine.end()
        served.sessions.check()


def random_request(
    generator: random.Random, lens: dict[int, int]
) -> tuple[dict[str, Any], dict[int, int], list[int]]:
    """Make a request, apply it to `lens`; return it, the drafts due and the unknown ids."""
    fields: dict[str, list[Any]] = {"open": [], "observe": [], "close": []}
    wanted: dict[int, int] = {}
    for sequence_id in generator.sample(range(12), 3):
        if sequence_id not in lens:
            lens[sequence_id] = length = generator.randrange(1, 50)
            nodes = generator.choice([0, 8])
            token_ids = [generator.randrange(9) for _ in range(length)]
            fields["open"].append(make_open(sequence_id, token_ids=token_ids, max_nodes=nodes))
            wanted |= {sequence_id: nodes}
    observed = generator.sample(range(12), 6)
    for sequence_id in observed:
        token_ids = [generator.randrange(9) for _ in range(generator.randrange(4))]
        nodes = generator.choice([0, 8])
        fields["observe"].append(make_observe(sequence_id, token_ids=token_ids, max_nodes=nodes))
        if sequence_id in lens:
            lens[sequence_id] += len(token_ids)
            wanted |= {sequence_id: nodes}
    unknown = [sequence_id for sequence_id in observed if sequence_id not in lens]
    for sequence_id in generator.sample(range(12), 2):
        fields["close"].append(pb.Close(sequence_id=sequence_id, learn=True))
        lens.pop(sequence_id, None)
    due = {i: lens[i] for i, nodes in wanted.items() if nodes and i in lens}
    return fields, due, unknown
