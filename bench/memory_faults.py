"""What faults of Redis cost generation: `python -m bench.memory --only faults`.

Streams of a small random model draft from one of two drafters without a break. Stretches with a
fault alternate with calm ones, and each is compared with the calm before and after it, so that the
drift of a busy machine cancels out. Calm stretches are compared with each other in the same way:
what they differ by is noise. The drafters' processor time has little of that: where the model runs
on the same cores, it is what a fault can take from it.
"""

import asyncio
import math
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from redis import Redis

from bench.random_models import save_all
from bench.word_runs import NUM_SLOTS, running_engine
from drafter.local_redis import LocalRedis
from lookahead.child import ChildProcess
from rpc.health import is_serving
from verifier.config import VerifierConfig
from verifier.engine import Engine
from verifier.request import Request, Speculation
from verifier.sampling import SamplingParams
from verifier.step_stats import StepStats
from verifier.stopping import StoppingParams

STREAMS = 2
PROMPT = tuple(range(10, 40))
MAX_TOKENS = 200
WARM_UP_S = 5.0
FAULT_S, RECOVERY_S = 2.5, 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the rounds, as shares of the calm stretches around each fault."""

    step: float  # 1.02: a step takes 2 % longer
    tokens_per_s: float
    tokens_per_step: float
    longest_step_ms: float
    drafter_cores: float  # processor seconds of both drafters per second
    rounds: int


@dataclass(frozen=True, slots=True)
class FaultCosts:
    """Of every fault, and of none at all."""

    calm_step_ms: float
    calm_drafter_cores: float
    noise: Cost
    killed: Cost
    frozen: Cost
    full: Cost
    read_only: Cost
    emptied: Cost
    generated: int
    failed: int


@dataclass(slots=True)
class Load:
    """Streams that never end, and the steps that served them."""

    drafters: list[psutil.Process]
    steps: list[tuple[float, StepStats]] = field(default_factory=list)
    generated: int = 0
    failed: int = 0

    async def stream(self, engine: Engine, number: int) -> None:
        while True:
            request = Request(
                request_id="faults",
                prompt_token_ids=(number, *PROMPT),
                sampling=SamplingParams(),
                stopping=StoppingParams(max_tokens=MAX_TOKENS),
                speculation=Speculation(namespace="faults"),
            )
            try:
                async for _ in engine.submit(request).stream():
                    pass
                self.generated += 1
            except Exception:
                self.failed += 1

    def drafter_s(self) -> float:
        """Processor seconds that the drafters have used."""
        times = [drafter.cpu_times() for drafter in self.drafters]
        return float(sum(t.user + t.system for t in times))

    def stretch(self, start: float, end: float, drafter_s: float) -> "Stretch":
        found = [s for at, s in self.steps if start <= at < end and s.num_decoding == STREAMS]
        step_ms = [1e3 * stats.step_s for stats in found]
        return Stretch(
            statistics.median(step_ms),
            1e3 * sum(stats.num_emitted for stats in found) / sum(step_ms),
            statistics.mean(stats.num_emitted for stats in found),
            max(step_ms),
            drafter_s / (end - start),
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of some seconds, those that decoded all streams."""

    step_ms: float
    tokens_per_s: float
    tokens_per_step: float
    longest_ms: float
    drafter_cores: float


class Harm:
    """Ways to hurt a server, each with its cure."""

    def __init__(self, redis: LocalRedis) -> None:
        self._redis = redis
        self._client = Redis(unix_socket_path=redis.url.removeprefix("unix://"))
        self._pid = 0

    def faults(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Name each fault; give what begins it and what ends it."""
        client = self._client
        return {
            "killed": (lambda: self._signal(signal.SIGKILL), self._restart),
            "frozen": (
                lambda: self._signal(signal.SIGSTOP),
                lambda: os.kill(self._pid, signal.SIGCONT),
            ),
            "full": (
                lambda: client.config_set("maxmemory", 1),
                lambda: client.config_set("maxmemory", 0),
            ),
            "read_only": (
                lambda: client.replicaof("127.0.0.1", 1),
                lambda: client.replicaof("NO", "ONE"),
            ),
            "emptied": (client.flushall, lambda: None),
        }

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _signal(self, number: int) -> None:
        self._pid = int(self._client.info("server")["process_id"])
        self._client.close()
        os.kill(self._pid, number)

    def _restart(self) -> None:
        self._redis.stop()
        self._redis.start()


def fault_costs(redis: LocalRedis, rounds: int = 4) -> FaultCosts:
    """Alternate calm and faults."""
    return asyncio.run(_fault_costs(redis, rounds))


async def _fault_costs(redis: LocalRedis, rounds: int) -> FaultCosts:
    harm = Harm(redis)
    calm: list[Stretch] = []
    hurt: dict[str, list[Stretch]] = {name: [] for name in harm.faults()}
    async with _traffic(redis) as load:
        await asyncio.sleep(WARM_UP_S)
        calm.append(await _stretch(load))
        for _ in range(rounds):
            for name, fault in harm.faults().items():
                hurt[name].append(await _stretch(load, fault))
                calm.append(await _stretch(load))
    harm.close()
    costs = {
        name: _cost(found, calm[place :: len(hurt)], calm[place + 1 :: len(hurt)])
        for place, (name, found) in enumerate(hurt.items())
    }
    return FaultCosts(
        calm_step_ms=statistics.median(stretch.step_ms for stretch in calm),
        calm_drafter_cores=statistics.median(stretch.drafter_cores for stretch in calm),
        noise=_cost(calm[1:-1], calm[:-2], calm[2:]),
        **costs,
        generated=load.generated,
        failed=load.failed,
    )


async def _stretch(
    load: Load, fault: tuple[Callable[[], object], Callable[[], object]] | None = None
) -> Stretch:
    """Some seconds with or without a fault; with it, recovery counts too."""
    began, drafter_s = time.monotonic(), load.drafter_s()
    if fault:
        await asyncio.to_thread(fault[0])
    await asyncio.sleep(FAULT_S)
    if fault:
        await asyncio.to_thread(fault[1])
    await asyncio.sleep(RECOVERY_S)
    return load.stretch(began, time.monotonic(), load.drafter_s() - drafter_s)


def _cost(found: list[Stretch], before: list[Stretch], after: list[Stretch]) -> Cost:
    triples = list(zip(found, before, after, strict=False))
    return Cost(
        step=_share(triples, lambda stretch: stretch.step_ms),
        tokens_per_s=_share(triples, lambda stretch: stretch.tokens_per_s),
        tokens_per_step=_share(triples, lambda stretch: stretch.tokens_per_step),
        longest_step_ms=max(f.longest_ms for f in found),
        drafter_cores=statistics.median(stretch.drafter_cores for stretch in found),
        rounds=len(triples),
    )


def _share(
    triples: list[tuple[Stretch, Stretch, Stretch]], value: Callable[[Stretch], float]
) -> float:
    """A stretch's value over the geometric mean of its neighbours', which favours neither."""
    return statistics.median(
        value(found) / math.sqrt(value(before) * value(after)) for found, before, after in triples
    )


@asynccontextmanager
async def _traffic(redis: LocalRedis) -> AsyncIterator[Load]:
    """Streams through an engine that drafts from the first of two drafters."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="la-")))
        _, path = next(save_all(folder))
        address, pids = stack.enter_context(_drafters(redis, folder))
        load = Load([psutil.Process(pid) for pid in pids])
        settings: dict[str, Any] = {"max_context": 512}
        config = VerifierConfig(model=path, max_sequences=NUM_SLOTS, **settings)
        engine, _ = await stack.enter_async_context(running_engine(config, address))
        engine.on_step = lambda stats: load.steps.append((time.monotonic(), stats))
        tasks = [asyncio.create_task(load.stream(engine, n)) for n in range(STREAMS)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _drafters(redis: LocalRedis, folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Two drafter processes of one memory; give the first one's address, and both ids."""
    pids = []
    addresses = [f"unix:{folder}/{number}.sock" for number in range(2)]
    with ExitStack() as stack:
        for number, address in enumerate(addresses):
            environ = {
                **os.environ,
                "LOOKAHEAD_DRAFTER_LISTEN": address,
                "LOOKAHEAD_DRAFTER_REDIS_URL": redis.url,
            }
            log_path = folder / f"{number}.log"
            child = ChildProcess("drafter", ["drafter"], log_path=log_path, environ=environ)
            stack.callback(child.stop, 5.0)
            pids.append(child.pid)
        while not all(map(is_serving, addresses)):
            time.sleep(0.1)
        yield addresses[0], pids
