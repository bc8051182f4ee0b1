"""What is learned, into which namespace, who drafts it, and how it is forgotten."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from bench.topologies.server import Server
from bench.topologies.server import running as running_servers
from protos import drafter_pb2 as pb
from tests.support.servers.running_drafter import (
    SAID,
    TEXT,
    TIMEOUT_S,
    drafter,
    drafts,
    make_observe,
    make_open,
)
from tests.support.waiting import eventually


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


async def test_namespaces_and_vocabularies_are_apart() -> None:
    async with drafter() as served:
        await served.learn(pb.LearnRequest(vocabulary="v", namespace="a", token_ids=TEXT))
        assert await served.knows("a", "v")
        assert not await served.knows("b", "v")
        assert not await served.knows("a", "w")


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


async def test_forgetting_removes_one_namespace_and_says_how_much() -> None:
    async with drafter() as served:
        for namespace in ("a", "b"):
            await served.learn(pb.LearnRequest(vocabulary="v", namespace=namespace, token_ids=TEXT))
        request = pb.ForgetRequest(vocabulary="v", namespace="a")
        assert (await served.stub.Forget(request, timeout=TIMEOUT_S)).num_tokens >= len(TEXT)
        assert (await served.stub.Forget(request, timeout=TIMEOUT_S)).num_tokens == 0
        assert not await served.knows("a")
        assert await served.knows("b")


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


@pytest.mark.slow
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


@pytest.mark.slow
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
