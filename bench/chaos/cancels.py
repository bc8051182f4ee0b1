"""Clients that leave at any moment: nothing of them stays, and nobody else notices."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np

from bench.chaos.target import HOSTILE, POLITE, Target, target
from bench.chaos.witness import others, witness
from bench.serving.figures import Figure
from protos import verifier_pb2 as pb
from protos.verifier_pb2_grpc import VerifierServiceStub

SECTION = "clients that leave"
WORKERS, FEW_WORKERS = 16, 2
MEAN_STAY_S = 0.02
MAX_TOKENS = 80
SAMPLES = 20  # of the processes' memory
WARM_UP = 0.3  # of all leavings, before memory is expected to stay
SLOPE_MB = 1.0  # in a thousand
WATCHED = ("verifier", "gateway")


@dataclass(slots=True)
class Memory:
    """Resident megabytes of a process, by how many clients had left."""

    left: list[int]
    mb: list[float]

    def slope(self) -> float:
        """Megabytes in a thousand, once warm."""
        first = int(WARM_UP * len(self.left))
        return float(1000 * np.polyfit(self.left[first:], self.mb[first:], 1)[0])


def cancels(number: int, seed: int) -> list[Figure]:
    """Let so many clients leave, by gRPC and HTTP, in every state of their requests."""
    with target() as stack:
        asyncio.run(_leave(stack, max(number // 10, WORKERS), random.Random(seed)))  # warms up
        stack.wait_until_idle()
        before = _held(stack)
        with witness(stack.http, POLITE) as polite:
            polite.calm()
            start = polite.mark()
            memory = asyncio.run(_leave(stack, number, random.Random(seed + 1)))
            seen = polite.seen(start)
        stack.wait_until_idle()
        after = _held(stack)
    leaked = {name: after[name] - before[name] for name in before}
    return [
        Figure(SECTION, "clients that left", number, ""),
        *(
            Figure(SECTION, f"leaked {name}", value, "", at_most=0)
            for name, value in leaked.items()
        ),
        *(
            Figure(SECTION, f"memory of the {name}, for 1,000", m.slope(), "MB", at_most=SLOPE_MB)
            for name, m in memory.items()
        ),
        *others(SECTION, seen, polite.text),
    ]


def _held(stack: Target) -> dict[str, float]:
    verifier, gateway = stack.reading("verifier"), stack.reading("gateway")
    return {
        "slots": verifier.value("requests_running") + verifier.value("requests_waiting"),
        "pages": verifier.value("kv_cache_usage_ratio"),
        "tasks of the verifier": verifier.value("event_loop_tasks"),
        "tasks of the gateway": gateway.value("event_loop_tasks"),
    }


def leave_for(stack: Target, seconds: float, seed: int) -> None:
    """Let a few clients at a time come and leave for a while."""
    deadline = time.monotonic() + seconds
    todo = iter(lambda: time.monotonic() < deadline, False)
    asyncio.run(_each(stack, todo, random.Random(seed), lambda: None, workers=FEW_WORKERS))


async def _leave(stack: Target, number: int, rng: random.Random) -> dict[str, Memory]:
    memory = {name: Memory([], []) for name in WATCHED}
    every = max(number // SAMPLES, 1)
    left = itertools.count(1)

    def note() -> None:
        if (index := next(left)) % every == 0:
            for name, found in memory.items():
                found.left.append(index)
                found.mb.append(stack.resident_mb(name))

    await _each(stack, iter(range(number)), rng, note)
    return memory


async def _each(
    stack: Target,
    todo: Iterator[object],
    rng: random.Random,
    note: Callable[[], None],
    workers: int = WORKERS,
) -> None:
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        stub: Any = VerifierServiceStub(channel)

        async def work(own: random.Random) -> None:
            for _ in todo:
                await (_leave_grpc(stub, own) if own.random() < 0.5 else _leave_http(stack, own))
                note()

        await asyncio.gather(*(work(random.Random(rng.random())) for _ in range(workers)))


async def _leave_grpc(stub: Any, rng: random.Random) -> None:
    """Cancel, let a deadline pass, or close in the middle of reading."""
    stay_s = rng.expovariate(1 / MEAN_STAY_S)
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=_prompt(rng)),
        stopping=pb.Stopping(max_tokens=MAX_TOKENS, ignore_eos=True),
        account="hostile",
    )
    has_deadline = rng.random() < 0.3
    call = stub.Generate(request, timeout=max(stay_s, 1e-3) if has_deadline else 30)
    reads = rng.random() < 0.7
    try:
        if reads:
            async with asyncio.timeout(None if has_deadline else stay_s):
                async for _ in call:
                    pass
        else:
            await asyncio.sleep(stay_s)
    except (TimeoutError, grpc.aio.AioRpcError):
        pass
    finally:
        call.cancel()


async def _leave_http(stack: Target, rng: random.Random) -> None:
    """Drop the connection: before the whole request, before the answer, in it."""
    host, port = stack.http.split(":")
    stream = rng.random() < 0.7
    body = json.dumps({"prompt": _prompt(rng), "max_tokens": MAX_TOKENS, "stream": stream}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {HOSTILE}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    whole = head + body
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(whole if rng.random() < 0.8 else whole[: rng.randrange(len(whole))])
        async with asyncio.timeout(rng.expovariate(1 / MEAN_STAY_S)):
            await reader.read()
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


def _prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(3, 200) for _ in range(rng.randrange(1, 200))]
