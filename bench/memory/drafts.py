"""How long a drafter takes to answer while its memory works: a bulk learn, and snapshots.

A client plays the engine: one sequence, one Draft request every few milliseconds.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import numpy as np

from bench.corpus import documents
from drafter.log.redis_log import RedisLog
from drafter.trie.token_run import TokenRun
from lookahead.stack.private_redis import LocalRedis
from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc

VOCABULARY, NAMESPACE = "bench", "drafts"
EVERY_S = 0.005
MAX_NODES = 16


@dataclass(frozen=True, slots=True)
class ReplyTimes:
    """Of the Draft requests sent during one phase."""

    num_replies: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Drafting:
    """Reply times in calm, while tokens are learned in bulk, while snapshots are written."""

    calm: ReplyTimes
    learning: ReplyTimes
    learned_tokens: int
    learn_s: float
    snapshots: ReplyTimes


def drafting(redis: LocalRedis, num_tokens: int = 1_000_000) -> Drafting:
    """Measure one drafter process that follows the given Redis."""
    return asyncio.run(_drafting(redis, documents(num_tokens)))


async def _drafting(redis: LocalRedis, runs: list[TokenRun]) -> Drafting:
    async with _drafter(redis) as stub:
        player = Player(stub, runs[0])
        await player.open()
        await player.during(_calm(1.0))  # meets code that is not loaded yet
        calm = await player.during(_calm(4.0))
        began = time.monotonic()
        learning = await player.during(_learn(stub, runs))
        learn_s = time.monotonic() - began
        snapshots = await player.during(_ask_for_snapshots(redis.url))
        await player.close()
    total = sum(len(run) for run in runs)
    return Drafting(calm, learning, total, learn_s, snapshots)


class Player:
    """One sequence of one stream; it walks along a text for ever."""

    def __init__(self, stub: pb_grpc.DrafterServiceStub, text: TokenRun) -> None:
        self._call = stub.Draft()
        self._text = text
        self._step = 0

    async def open(self) -> None:
        await self._send(
            open=[
                pb.Open(
                    sequence_id=1,
                    vocabulary=VOCABULARY,
                    namespace=NAMESPACE,
                    token_ids=self._text[:8].tolist(),
                    num_prompt_tokens=8,
                    max_nodes=MAX_NODES,
                )
            ]
        )

    async def during(self, work: "asyncio.Task[None]") -> ReplyTimes:
        """Draft at a steady pace until the work is done."""
        times = []
        while not work.done():
            began = time.monotonic()
            await self._draft()
            times.append(1e3 * (time.monotonic() - began))
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))
        await work
        p50, p99, longest = np.percentile(times, [50, 99, 100])
        return ReplyTimes(len(times), float(p50), float(p99), float(longest))

    async def close(self) -> None:
        await self._call.done_writing()

    async def _draft(self) -> None:
        token = int(self._text[self._step % len(self._text)])
        await self._send(
            observe=[pb.Observe(sequence_id=1, token_ids=[token], max_nodes=MAX_NODES)]
        )

    async def _send(self, **fields: object) -> None:
        self._step += 1
        await self._call.write(pb.DraftRequest(step=self._step, **fields))  # type: ignore[arg-type]
        await self._call.read()


def _calm(seconds: float) -> "asyncio.Task[None]":
    return asyncio.ensure_future(asyncio.sleep(seconds))


def _learn(stub: pb_grpc.DrafterServiceStub, runs: list[TokenRun]) -> "asyncio.Task[None]":
    async def requests() -> AsyncIterator[pb.LearnRequest]:
        for run in runs:
            yield pb.LearnRequest(
                vocabulary=VOCABULARY, namespace=NAMESPACE, token_ids=run.tolist()
            )

    async def learn() -> None:
        await stub.Learn(requests())

    return asyncio.ensure_future(learn())


def _ask_for_snapshots(url: str, seconds: float = 5.0) -> "asyncio.Task[None]":
    async def ask() -> None:
        log = RedisLog(url)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await log.want_snapshot(f"{VOCABULARY}/{NAMESPACE}")
            await asyncio.sleep(0.1)
        await log.close()

    return asyncio.ensure_future(ask())


@asynccontextmanager
async def _drafter(redis: LocalRedis) -> AsyncIterator[pb_grpc.DrafterServiceStub]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "drafter", "--listen", address, "--redis", redis.url]
    limits = {"LOOKAHEAD_DRAFTER_MAX_NAMESPACE_BYTES": str(1 << 30)}
    process = subprocess.Popen(command, env=os.environ | limits, stderr=subprocess.DEVNULL)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 120.0)
            yield pb_grpc.DrafterServiceStub(channel)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
