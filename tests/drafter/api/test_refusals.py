"""Bad requests are refused with the field to blame, and change nothing."""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_status import rpc_status

from protos import drafter_pb2 as pb
from tests.support.servers.running_drafter import (
    NEXT,
    TEXT,
    TIMEOUT_S,
    Drafter,
    drafter,
    drafts,
    field_violations,
    make_observe,
    make_open,
)
from tests.support.waiting import eventually

BAD_OPENINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("vocabulary", "''", {"vocabulary": ""}),
    ("vocabulary", "'a/b'", {"vocabulary": "a/b"}),
    ("namespace", "''", {"namespace": ""}),
    ("namespace", "'a b'", {"namespace": "a b"}),
    ("namespace", "'a\\nb'", {"namespace": "a\nb"}),
    ("namespace", "'n\\n'", {"namespace": "n\n"}),
    ("namespace", "nnn", {"namespace": "n" * 129}),
    ("token_ids", "at least one", {"token_ids": []}),
    ("token_ids[2]", "2147483648", {"token_ids": [1, 2, 2**31, 4]}),
    ("token_ids[99]", "4294967295", {"token_ids": [*range(99), 2**32 - 1]}),
    ("token_ids", "1048577", {"token_ids": [1] * (2**20 + 1)}),
    ("num_prompt_tokens", "9", {"token_ids": [1, 2], "num_prompt_tokens": 9}),
    ("prediction[0]", "2147483647", {"prediction": [2**31 - 1]}),
    ("prediction", "65537", {"prediction": [1] * (2**16 + 1)}),
    ("learn", "99", {"learn": 99}),
    ("max_nodes", "65", {"max_nodes": 65}),
    ("max_nodes", "4294967295", {"max_nodes": 2**32 - 1}),
]
BAD_OBSERVATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("token_ids[1]", "4294967295", {"token_ids": [1, 2**32 - 1]}),
    ("token_ids", "4097", {"token_ids": [1] * 4097}),
    ("num_verified", "4000000000", {"token_ids": [1], "num_verified": 4_000_000_000}),
    ("successors", "3", {"token_ids": [1, 2], "successors": [1, 2, 3], "successors_per_token": 2}),
    ("successors[1]", "2147483648", {"token_ids": [1], "successors": [1, 2**31],
                                     "successors_per_token": 2}),
    ("successors", "1", {"token_ids": [1], "successors": [1]}),
    ("successors_per_token", "65", {"successors_per_token": 65}),
    ("max_nodes", "65", {"max_nodes": 65}),
]  # fmt: skip


async def refusal(served: Drafter, **fields: Any) -> dict[str, str]:
    """Send a bad request after a good one; return what it is blamed for."""
    before = (await served.describe(), served.sessions.stats().num_emitted)
    engine = served.stream()
    await engine.send(open=[make_open(1)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await engine.send(**fields)
    status = await rpc_status.aio.from_call(engine.call)
    await eventually(lambda: served.sessions.stats().num_sequences == 0)
    assert (await served.describe(), served.sessions.stats().num_emitted) == before
    served.sessions.check()
    return field_violations(caught.value, status)


@pytest.mark.parametrize(("field", "value", "change"), BAD_OPENINGS)
async def test_bad_openings_are_refused_and_change_nothing(
    field: str, value: str, change: dict[str, Any]
) -> None:
    async with drafter() as served:
        await served.learn(pb.LearnRequest(vocabulary="v", namespace="n", token_ids=TEXT))
        fields = {
            "observe": [make_observe(1, token_ids=[1, 2])],
            "open": [make_open(2), make_open(3, **change)],
            "close": [pb.Close(sequence_id=1, learn=True)],
        }
        violations = await refusal(served, **fields)
        assert list(violations) == [f"open[1].{field}"]
        assert value in violations[f"open[1].{field}"]


@pytest.mark.parametrize(("field", "value", "change"), BAD_OBSERVATIONS)
async def test_bad_observations_are_refused_and_change_nothing(
    field: str, value: str, change: dict[str, Any]
) -> None:
    async with drafter() as served:
        await served.learn(pb.LearnRequest(vocabulary="v", namespace="n", token_ids=TEXT))
        observations = [make_observe(2, token_ids=[1, 2]), make_observe(1, **change)]
        violations = await refusal(served, open=[make_open(2)], observe=observations)
        assert list(violations) == [f"observe[1].{field}"]
        assert value in violations[f"observe[1].{field}"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("open[0].sequence_id", {"open": [make_open(1)]}),
        ("open[1].sequence_id", {"open": [make_open(4), make_open(4)]}),
        ("observe[1].sequence_id", {"observe": [make_observe(1), make_observe(1)]}),
        ("open", {"open": [make_open(i, token_ids=[1]) for i in range(2, 4098)]}),
    ],
)
async def test_sequences_are_opened_and_named_once(field: str, fields: dict[str, Any]) -> None:
    async with drafter() as served:
        await served.learn(pb.LearnRequest(vocabulary="v", namespace="n", token_ids=TEXT))
        assert list(await refusal(served, **fields)) == [field]


async def test_steps_must_increase() -> None:
    async with drafter() as served:
        call = served.stub.Draft(timeout=TIMEOUT_S)
        await call.write(pb.DraftRequest(step=4))
        await call.read()
        await call.write(pb.DraftRequest(step=4))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        status = await rpc_status.aio.from_call(call)
        assert field_violations(caught.value, status) == {"step": "must exceed 4, got 4"}


async def test_one_bad_stream_leaves_the_others_alone() -> None:
    async with drafter() as served:
        good, bad = served.stream(), served.stream()
        await good.send(open=[make_open(1)])
        with pytest.raises(grpc.aio.AioRpcError):
            await bad.send(open=[make_open(1, max_nodes=999)])
        response = await good.send(observe=[make_observe(token_ids=NEXT[:1], max_nodes=8)])
        assert drafts(response.drafts[0], NEXT[1:])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("vocabulary", {"vocabulary": ""}),
        ("namespace", {"namespace": "a{b}"}),
        ("token_ids", {"token_ids": []}),
        ("token_ids[1]", {"token_ids": [1, 2**32 - 1]}),
        ("token_ids", {"token_ids": [1] * (2**20 + 1)}),
    ],
)
async def test_bad_runs_are_not_learned(field: str, change: dict[str, Any]) -> None:
    async with drafter() as served:
        request = {"vocabulary": "v", "namespace": "n", "token_ids": TEXT} | change
        call = served.stub.Learn(iter([pb.LearnRequest(**request)]), timeout=TIMEOUT_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        status = await rpc_status.aio.from_call(call)
        assert list(field_violations(caught.value, status)) == [field]
        assert await served.describe() == []


async def test_bad_names_are_refused_by_the_other_rpcs() -> None:
    async with drafter() as served:
        calls: list[tuple[str, Callable[[], Any]]] = [
            ("namespace", lambda: served.stub.Forget(pb.ForgetRequest(vocabulary="v"))),
            ("prefix", lambda: served.stub.DescribeNamespaces(
                pb.DescribeNamespacesRequest(prefix="a*"))),
        ]  # fmt: skip
        for field, make_call in calls:
            call = make_call()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            status = await rpc_status.aio.from_call(call)
            assert list(field_violations(caught.value, status)) == [field]
