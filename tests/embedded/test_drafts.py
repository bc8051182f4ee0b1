"""A replica in the verifier's process drafts what a drafter would, and shares its memory."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.serving.forced import AlwaysOn, Forced, NoText
from bench.serving.host import NUM_NODES, VOCABULARY, one_layer, recorded
from bench.topologies.server import Server, running
from drafter.api.turn_budget import TOKENS_PER_TURN
from embedded.drafts import EmbeddedDrafts
from protos import drafter_pb2 as pb
from rpc.contract import Learn
from tests.support.models.engine_runs import FREE_NODES, make_request
from tests.support.servers.running_drafter import NEXT, START, TEXT, Drafter, drafter
from tests.support.waiting import eventually
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.engine.events import Completion
from verifier.model.model import TargetModel
from verifier.request import Speculation
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.draft_source import DraftSource
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow


@asynccontextmanager
async def embedded(**settings: str) -> AsyncIterator[EmbeddedDrafts]:
    """Started drafts; every sequence is gone at the end."""
    drafts = EmbeddedDrafts(vocabulary="v", vocabulary_size=VOCABULARY)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"LOOKAHEAD_DRAFTER_{name.upper()}", value)
        drafts.start()
    try:
        yield drafts
    finally:
        await drafts.stop()
    assert drafts.sessions.stats().num_sequences == 0, "a sequence was left open"


def path_of(tree: DraftTree) -> list[int]:
    """The tokens from the root along first children."""
    path, last = [], -1
    for node, parent in enumerate(tree.parents):
        if parent == last:
            path.append(tree.token_ids[node])
            last = node
    return path


async def knows(drafts: EmbeddedDrafts, namespace: str) -> bool:
    """Whether the namespace drafts the rest of TEXT from its beginning alone."""
    speculation = Speculation(namespace=namespace, learn=Learn.NONE)
    drafts.open(99, list(START), len(START), speculation)
    drafts.request({99: NUM_NODES})
    path = path_of(drafts.tree(99))
    drafts.close(99, learn=False)
    return path[: len(NEXT)] == NEXT


async def learned(drafts: EmbeddedDrafts, namespace: str) -> None:
    """A sequence whose output is TEXT."""
    tokens = [3]
    drafts.open(1, tokens, 1, Speculation(namespace=namespace))
    tokens += TEXT
    drafts.observe(1, num_verified=0, successors=None)
    drafts.close(1, learn=True)
    await asyncio.sleep(0)  # the memory learns on the event loop


async def test_what_a_sequence_said_is_drafted_from_the_next_step_on() -> None:
    async with embedded() as drafts:
        tokens = [*TEXT, *START]
        drafts.open(1, tokens, len(tokens), Speculation())
        drafts.request({1: NUM_NODES})
        assert path_of(drafts.tree(1))[: len(NEXT)] == NEXT
        assert not drafts.tree(1), "a tree was given out twice"
        tokens += NEXT[:2]
        drafts.observe(1, num_verified=NUM_NODES, successors=np.array([[7, 8]] * 2, np.int32))
        drafts.request({1: NUM_NODES})
        assert path_of(drafts.tree(1))[:2] == NEXT[2:]
        drafts.close(1, learn=False)


async def test_a_namespace_learns_what_is_said_in_it_and_no_other_one_does() -> None:
    async with embedded() as drafts:
        await learned(drafts, "a")
        assert await knows(drafts, "a")
        assert not await knows(drafts, "b")


async def test_a_name_that_no_drafter_takes_has_no_drafts_and_breaks_nothing() -> None:
    async with embedded() as drafts:
        drafts.open(1, [3, 4], 2, Speculation(namespace="no such\nname"))
        drafts.observe(1, num_verified=0, successors=None)
        drafts.request({1: 4, 2: 4})
        assert not drafts.tree(1)
        drafts.close(1, learn=True)


async def test_a_long_prompt_is_indexed_beside_the_loop_and_misses_nothing() -> None:
    async with embedded() as drafts:
        filler = [i % 7 + 100 for i in range(TOKENS_PER_TURN)]
        tokens = [*filler, *TEXT]
        drafts.open(1, tokens, len(tokens), Speculation())
        tokens += START  # emitted while it is indexed
        drafts.observe(1, num_verified=0, successors=None)

        def is_drafted() -> bool:
            drafts.request({1: NUM_NODES})
            return path_of(drafts.tree(1))[: len(NEXT)] == NEXT

        await eventually(is_drafted)
        drafts.open(2, list(tokens), len(tokens), Speculation())
        drafts.close(2, learn=True)  # before it is there
        drafts.close(1, learn=False)


async def test_ids_that_are_no_tokens_here_are_not_drafted() -> None:
    async with embedded() as drafts:
        tokens = [*TEXT, VOCABULARY + 5, *TEXT]
        drafts.open(1, tokens, len(tokens), Speculation())
        drafts.request({1: NUM_NODES})
        assert not drafts.tree(1)
        assert drafts.num_invalid == 1
        drafts.close(1, learn=False)


async def test_a_replica_and_a_drafter_learn_and_forget_together(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        async with (
            drafter(redis_url=server.url) as other,
            embedded(redis_url=server.url) as drafts,
        ):
            await learned(drafts, "n")
            await eventually(lambda: is_known(other, "n"))
            assert await other.knows("n")
            await other.learn(pb.LearnRequest(vocabulary="v", namespace="m", token_ids=TEXT))
            await eventually(lambda: is_known(drafts, "m"))
            assert await knows(drafts, "m")
            await other.stub.Forget(pb.ForgetRequest(vocabulary="v", namespace="m"))
            await eventually(lambda: not is_known(drafts, "m"))
            assert not await knows(drafts, "m")


def is_known(side: Drafter | EmbeddedDrafts, namespace: str) -> bool:
    side.memory.load(f"v/{namespace}")
    status = side.memory.describe(f"v/{namespace}")
    return status is not None and status.num_tokens > 0


async def tokens_per_step(model: TargetModel, drafts: DraftSource) -> float:
    """Of requests in turn, so that each learns from those before it."""
    config = VerifierConfig(model="small")
    engine = Engine(model, NoText(), drafts, FREE_NODES, config, Counters())  # type: ignore[arg-type]
    engine.drafting.controller = AlwaysOn(FREE_NODES.curve.plain_units())
    engine.start()
    await eventually(lambda: engine.drafting.is_connected)
    rng = random.Random(2)
    num_tokens = num_steps = 0
    with Forced(engine) as forced:
        for _ in range(8):
            prompt, answer = recorded(rng, 150)
            sequence = forced.submit(make_request(prompt, len(answer)), answer)
            *_, completion = [event async for event in sequence.stream()]
            assert isinstance(completion, Completion)
            num_tokens += completion.num_output_tokens - 1
            num_steps += completion.num_steps
    await engine.stop()
    return num_tokens / num_steps


async def test_a_replica_brings_as_many_tokens_per_step_as_a_drafter_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("verifier.engine.draft_coordinator.DRAFT_SHARE", 1e9)
    monkeypatch.setattr("verifier.engine.draft_coordinator.MAX_DRAFT_WAIT_S", 10.0)
    model = one_layer()
    near = EmbeddedDrafts(vocabulary="v", vocabulary_size=VOCABULARY)
    found = await tokens_per_step(model, near)
    async with drafter() as served:
        far = DraftClient([served.address], vocabulary="v", vocabulary_size=VOCABULARY)
        assert found == pytest.approx(await tokens_per_step(model, far), rel=0.01)
    assert found > 2
