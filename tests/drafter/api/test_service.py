"""The drafter over gRPC: real server, real sessions, real memory, in this process."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from bench.topologies.server import Server
from bench.topologies.server import running as running_servers
from drafter.api.service import NAME, DrafterService
from drafter.config import DrafterConfig
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import SharedMemory
from drafter.server import SHARED_MEMORY, build, warm_up
from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceStub, add_DrafterServiceServicer_to_server
from rpc.server import RpcServer
from tests.support.waiting import eventually

TIMEOUT_S = 10.0
# Long enough that what follows its beginning is drafted with confidence.
TEXT = list(range(10, 50))
START, NEXT = TEXT[:16], TEXT[16:20]
SAID = list(range(60, 90))
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Drafter:
    """A running drafter, from the outside and from the inside."""

    stub: Any
    channel: grpc.aio.Channel
    sessions: DraftSessions
    memory: SharedMemory

    def stream(self) -> "Engine":
        return Engine(self.stub.Draft(timeout=TIMEOUT_S))

    async def describe(self, prefix: str = "") -> list[pb.NamespaceDescription]:
        request = pb.DescribeNamespacesRequest(prefix=prefix)
        return list((await self.stub.DescribeNamespaces(request, timeout=TIMEOUT_S)).namespaces)

    async def learn(self, *requests: pb.LearnRequest) -> pb.LearnResponse:
        return await self.stub.Learn(iter(requests), timeout=TIMEOUT_S)

    async def knows(self, namespace: str, vocabulary: str = "v") -> bool:
        """Whether the namespace drafts the rest of TEXT from its beginning alone."""
        engine = self.stream()
        opening = make_open(token_ids=START, namespace=namespace, vocabulary=vocabulary)
        response = await engine.send(open=[opening])
        await engine.end()
        return drafts(response.drafts[0], NEXT)


class Engine:
    """The verifier's end of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.step = 0

    async def send(self, **fields: Any) -> pb.DraftResponse:
        self.step += 1
        await self.call.write(pb.DraftRequest(step=self.step, **fields))
        response: pb.DraftResponse = await self.call.read()
        assert response.step == self.step
        return response

    async def end(self) -> None:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF


@pytest.fixture(autouse=True, scope="module")
def warm_kernels() -> None:
    """Compile them once, outside every deadline."""
    warm_up()


@asynccontextmanager
async def drafter(**settings: Any) -> AsyncIterator[Drafter]:
    config = DrafterConfig(**settings)
    sessions, memory = build(config)
    server = RpcServer([NAME])
    service = DrafterService(sessions, memory, max_live_tokens=config.max_live_tokens)
    add_DrafterServiceServicer_to_server(service, server.grpc)
    port = await server.start("127.0.0.1:0")
    await memory.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Drafter(DrafterServiceStub(channel), channel, sessions, memory)
    finally:
        await server.stop()
        await memory.stop()


def make_open(sequence_id: int = 1, **fields: Any) -> pb.Open:
    settings: dict[str, Any] = {
        "vocabulary": "v",
        "namespace": "n",
        "token_ids": [*TEXT, *START],
        "max_nodes": 16,
        "learn": pb.LEARN_ALL,
    }
    settings.update(fields)
    settings.setdefault("num_prompt_tokens", len(settings["token_ids"]))
    return pb.Open(sequence_id=sequence_id, **settings)


def make_observe(sequence_id: int = 1, **fields: Any) -> pb.Observe:
    return pb.Observe(sequence_id=sequence_id, **fields)


def drafts(draft: pb.Draft, path: list[int]) -> bool:
    """Whether the tree holds the path from its root."""
    at = -1
    nodes = list(zip(draft.parents, draft.token_ids, strict=True))
    for token_id in path:
        if (at, token_id) not in nodes:
            return False
        at = nodes.index((at, token_id))
    return True


def field_violations(error: grpc.aio.AioRpcError, status: Any) -> dict[str, str]:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    return {v.field: v.description for v in bad_request.field_violations}


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


@pytest.mark.parametrize(
    ("learn", "close_learns", "prompt", "output"),
    [
        (pb.LEARN_ALL, True, True, True),
        (pb.LEARN_UNSPECIFIED, True, True, True),
        (pb.LEARN_OUTPUT, True, False, True),
        (pb.LEARN_NONE, True, False, False),
        (pb.LEARN_ALL, False, False, False),
    ],
)
async def test_closing_learns_what_the_sequence_allows(
    learn: pb.Learn.ValueType, close_learns: bool, prompt: bool, output: bool
) -> None:
    async with drafter() as served:
        engine = served.stream()
        opening = make_open(token_ids=TEXT, learn=learn)
        await engine.send(open=[opening], observe=[make_observe(token_ids=SAID[:20])])
        # The last tokens travel beside the close.
        last = make_observe(token_ids=SAID[20:])
        await engine.send(observe=[last], close=[pb.Close(sequence_id=1, learn=close_learns)])
        assert await served.knows("n") is prompt
        (draft,) = (await engine.send(open=[make_open(2, token_ids=SAID[:16])])).drafts
        assert drafts(draft, SAID[16:20]) is output


async def test_a_reopened_sequence_counts_earlier_output_as_output() -> None:
    async with drafter() as served:
        engine = served.stream()
        both = [*TEXT, *SAID]
        opening = make_open(token_ids=both, num_prompt_tokens=len(TEXT), learn=pb.LEARN_OUTPUT)
        await engine.send(open=[opening])
        await engine.send(close=[pb.Close(sequence_id=1, learn=True)])
        assert not await served.knows("n")
        (draft,) = (await engine.send(open=[make_open(2, token_ids=SAID[:16])])).drafts
        assert drafts(draft, SAID[16:20])


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


async def test_namespaces_and_vocabularies_are_apart() -> None:
    async with drafter() as served:
        await served.learn(pb.LearnRequest(vocabulary="v", namespace="a", token_ids=TEXT))
        assert await served.knows("a", "v")
        assert not await served.knows("b", "v")
        assert not await served.knows("a", "w")


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


async def test_learning_a_corpus_counts_and_drafts_it() -> None:
    async with drafter() as served:
        requests = [
            pb.LearnRequest(vocabulary="v", namespace="n", token_ids=TEXT),
            pb.LearnRequest(vocabulary="v", namespace="n", token_ids=list(range(100, 40_000))),
            pb.LearnRequest(vocabulary="v", namespace="other", token_ids=[1]),
        ]
        learned = await served.learn(*requests)
        assert (learned.num_runs, learned.num_tokens) == (3, 40 + 39_900 + 1)
        assert await served.knows("n")


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


async def test_forgetting_removes_one_namespace_and_says_how_much() -> None:
    async with drafter() as served:
        for namespace in ("a", "b"):
            await served.learn(pb.LearnRequest(vocabulary="v", namespace=namespace, token_ids=TEXT))
        request = pb.ForgetRequest(vocabulary="v", namespace="a")
        assert (await served.stub.Forget(request, timeout=TIMEOUT_S)).num_tokens >= len(TEXT)
        assert (await served.stub.Forget(request, timeout=TIMEOUT_S)).num_tokens == 0
        assert not await served.knows("a")
        assert await served.knows("b")


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


async def test_namespaces_are_described_by_prefix() -> None:
    async with drafter() as served, drafter() as other:
        for name in ("chat-a", "chat-b", "code"):
            request = pb.LearnRequest(vocabulary="v", namespace=name, token_ids=TEXT)
            await served.learn(request)
            await other.learn(request)
        chats = await served.describe("chat-")
        assert [(d.vocabulary, d.namespace) for d in chats] == [("v", "chat-a"), ("v", "chat-b")]
        assert all(d.num_tokens >= len(TEXT) and d.num_bytes > 0 for d in chats)
        assert all(d.log_position == "" for d in chats)
        assert await served.describe() == await other.describe()


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


async def test_what_one_drafter_learns_the_other_drafts(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running_servers(server):
        async with drafter(redis_url=server.url) as one, drafter(redis_url=server.url) as two:
            assert not await two.knows("n")
            engine = one.stream()
            await engine.send(open=[make_open(token_ids=TEXT)])
            await engine.send(close=[pb.Close(sequence_id=1, learn=True)])
            await eventually(lambda: two.memory.status().applied_tokens > 0)
            assert await two.knows("n")
            await eventually(lambda: one.memory.status().applied_tokens > 0)
            (ours,), (theirs,) = await one.describe(), await two.describe()
            assert (ours.digest, ours.log_position) == (theirs.digest, theirs.log_position)
            assert ours.log_position


async def test_forget_says_when_redis_cannot_be_told(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running_servers(server):
        async with drafter(redis_url=server.url) as served:
            await served.learn(pb.LearnRequest(vocabulary="v", namespace="n", token_ids=TEXT))
            server.kill()
            request = pb.ForgetRequest(vocabulary="v", namespace="n")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Forget(request, timeout=TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_process_serves_says_that_memory_is_local_and_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    address = f"unix:{tmp_path}/drafter.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drafter", "--listen", address, stderr=asyncio.subprocess.PIPE
    )
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(
            health_pb2.HealthCheckRequest(service=NAME), timeout=60, wait_for_ready=True
        )
        async for reply in watch:
            if reply.status == SERVING:
                break
        watch.cancel()
        memory = await health.Check(health_pb2.HealthCheckRequest(service=SHARED_MEMORY))
        assert memory.status != SERVING
        engine = Engine(DrafterServiceStub(channel).Draft(timeout=TIMEOUT_S))
        assert len((await engine.send(open=[make_open()])).drafts) == 1
        os.kill(process.pid, signal.SIGTERM)
        _, logs = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0
    assert b"memory dies with the process" in logs
    assert b"stream_ended" in logs and b"sequences=1" in logs


async def test_the_process_refuses_settings_that_cannot_work() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drafter", "--redis", "http://here", stderr=asyncio.subprocess.PIPE
    )
    _, logs = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"redis_url: scheme 'http'" in logs and b"Traceback" not in logs
