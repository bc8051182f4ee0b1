"""A flood of namespaces against one drafter: `python -m bench.memory --only namespaces`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import psutil

from bench.memory.server import connect, server
from bench.topologies.server import free_port, wait_until
from lookahead.stack.private_redis import LocalRedis
from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceStub

PER_MESSAGE = 50
PROMPT_LEN, OUTPUT_LEN, VOCABULARY = 32, 8, 50_000
MAX_BYTES = 256 << 20
IDLE_S = 20.0
MAX_DRAIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """One request in each of very many namespaces."""

    num_namespaces: int
    opened_per_s: float
    limit_mb: float
    start_mb: float  # before the first
    most_mb: float
    idle_mb: float
    idle_cpu_percent: float  # of one core, afterwards
    most_connections: int  # of the drafter to Redis
    in_memory: int
    back_ms: float  # until the first namespace drafts what it learned, once put away


def namespaces(number: int) -> Namespaces:
    """Open, draft, observe and close one sequence in each; then see what it costs to do nothing."""
    with server() as redis, _drafter(redis, MAX_BYTES) as (process, address):
        start_mb = _mb(process)
        with grpc.insecure_channel(address) as channel:
            stub = DrafterServiceStub(channel)
            began = time.monotonic()
            watch = _Watch(process, redis)
            for response in stub.Draft(_requests(number)):
                if response.step % 20 == 0:
                    watch.look()
            opened_s = time.monotonic() - began
            _drain(watch)
            watch.look()
            before, idle_from = process.cpu_times(), time.monotonic()
            time.sleep(IDLE_S)
            after, idle_s = process.cpu_times(), time.monotonic() - idle_from
            used_s = after.user + after.system - before.user - before.system
            watch.look()
            held = len(stub.DescribeNamespaces(pb.DescribeNamespacesRequest()).namespaces)
            return Namespaces(
                num_namespaces=number,
                opened_per_s=number / opened_s,
                limit_mb=MAX_BYTES / 1e6,
                start_mb=start_mb,
                most_mb=watch.most_mb,
                idle_mb=_mb(process),
                idle_cpu_percent=100 * used_s / idle_s,
                most_connections=watch.most_connections,
                in_memory=held,
                back_ms=_back_ms(stub),
            )


class _Watch:
    """The most memory and connections that were seen."""

    def __init__(self, process: psutil.Process, redis: LocalRedis) -> None:
        self.process, self.client = process, connect(redis)
        self.most_mb = 0.0
        self.most_connections = 0
        self.look()

    def look(self) -> None:
        self.most_mb = max(self.most_mb, _mb(self.process))
        others = len(self.client.client_list()) - 1
        self.most_connections = max(self.most_connections, others)


@contextmanager
def _drafter(redis: LocalRedis, max_bytes: int) -> Iterator[tuple[psutil.Process, str]]:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "drafter", "--listen", address, "--log-level", "WARNING"]
    settings = {
        "LOOKAHEAD_DRAFTER_REDIS_URL": redis.url,
        "LOOKAHEAD_DRAFTER_MAX_MEMORY_BYTES": str(max_bytes),
    }
    with subprocess.Popen(command, env=os.environ | settings) as child:
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(60)
            yield psutil.Process(child.pid), address
        finally:
            child.terminate()


def _requests(number: int) -> Iterator[pb.DraftRequest]:
    step = 0
    for first in range(0, number, PER_MESSAGE):
        ids = range(first, min(first + PER_MESSAGE, number))
        opening = [_opening(sequence_id) for sequence_id in ids]
        step += 1
        yield pb.DraftRequest(step=step, open=opening)
        step += 1
        observing = [
            pb.Observe(sequence_id=one, token_ids=_tokens(one)[:OUTPUT_LEN].tolist()) for one in ids
        ]
        closing = [pb.Close(sequence_id=one, learn=True) for one in ids]
        yield pb.DraftRequest(step=step, observe=observing, close=closing)


def _opening(sequence_id: int) -> pb.Open:
    return pb.Open(
        sequence_id=sequence_id,
        vocabulary="bench",
        namespace=f"flood.u-{sequence_id}",
        token_ids=_tokens(sequence_id).tolist(),
        num_prompt_tokens=PROMPT_LEN,
        max_nodes=16,
        learn=pb.LEARN_ALL,
    )


def _tokens(seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.random.default_rng(seed).integers(0, VOCABULARY, PROMPT_LEN)


def _drain(watch: _Watch) -> None:
    """Wait until all that was learned is in Redis: its news end."""
    client, last = watch.client, -1

    def is_quiet() -> bool:
        nonlocal last
        before, last = last, client.xinfo_stream("lookahead:news")["entries-added"]
        time.sleep(2.0)
        watch.look()
        return bool(before == last)

    wait_until(is_quiet, MAX_DRAIN_S)


def _back_ms(stub: DrafterServiceStub) -> float:
    """Ask for the first namespace again until it drafts what was said there."""
    began = time.monotonic()
    expected = int(_tokens(0)[8])

    def drafts() -> bool:
        opening = _opening(0)
        del opening.token_ids[8:]
        opening.num_prompt_tokens, opening.max_nodes = 8, 16
        (response,) = stub.Draft(iter([pb.DraftRequest(step=1, open=[opening])]))
        return expected in list(response.drafts[0].token_ids)

    wait_until(drafts, 30)
    return 1000 * (time.monotonic() - began)


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6
