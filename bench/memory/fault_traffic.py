"""Streams that never end, two drafters of one memory, and what some seconds of that look like."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench.exactness.random_models import save_family
from bench.exactness.runs import NUM_SLOTS, running_engine
from lookahead.stack.child import ChildProcess
from rpc.health import is_serving
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters, StepStats
from verifier.engine.engine import Engine
from verifier.request import Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams

STREAMS = 2
PROMPT = tuple(range(10, 40))
MAX_TOKENS = 200
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of some seconds, those that decoded all streams."""

    step_ms: float
    per_forward: float  # time of all steps over the time of their passes through the model
    tokens_per_s: float
    tokens_per_step: float
    longest_ms: float
    drafter_cores: float  # processor seconds of both drafters per second


class Load(Counters):
    """Generations without a break, and the steps that served them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, StepStats]] = []
        self.generated = 0
        self.failures: list[str] = []

    def count_step(self, stats: StepStats) -> None:
        """Count a step and keep it, with the time of its end."""
        super().count_step(stats)
        self.steps.append((time.monotonic(), stats))

    async def stream(self, engine: Engine, number: int) -> None:
        """Ask for the same text again and again."""
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
            except Exception as error:
                self.failures.append(repr(error))
                await asyncio.sleep(0.1)

    def stretch(self, start: float, end: float, drafter_s: float) -> Stretch:
        """Sum up the steps between two times in which the drafters used `drafter_s`."""
        found = [s for at, s in self.steps if start <= at < end and s.num_decoding == STREAMS]
        step_ms = [1e3 * stats.step_s for stats in found]
        return Stretch(
            statistics.median(step_ms),
            sum(stats.step_s for stats in found) / sum(stats.forward_s for stats in found),
            1e3 * sum(stats.num_emitted for stats in found) / sum(step_ms),
            statistics.mean(stats.num_emitted for stats in found),
            max(step_ms),
            drafter_s / (end - start),
        )


class DrafterEndpoints:
    """Two drafter processes of one memory; the engine uses the first, the other one listens."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._addresses = [f"unix:{folder}/{number}.sock" for number in range(2)]
        self._children: list[ChildProcess] = []

    @property
    def address(self) -> str:
        """Where the engine finds its drafter."""
        return self._addresses[0]

    def start(self) -> None:
        """Start both and wait until they serve, whether Redis is there or not."""
        for number, address in enumerate(self._addresses):
            environ = {
                **os.environ,
                "LOOKAHEAD_DRAFTER_LISTEN": address,
                "LOOKAHEAD_DRAFTER_REDIS_URL": self._url,
            }
            log_path = self._folder / f"{number}.log"
            self._children.append(
                ChildProcess("drafter", ["drafter"], log_path=log_path, environ=environ)
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not all(map(is_serving, self._addresses)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"drafters: not serving\n{self._children[0].log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End both."""
        while self._children:
            self._children.pop().stop(5.0)

    def processor_s(self) -> float:
        """Processor seconds that both have used since they were started."""
        times = [psutil.Process(child.pid).cpu_times() for child in self._children]
        return float(sum(t.user + t.system for t in times))


@contextmanager
def _running(drafters: DrafterEndpoints) -> Iterator[None]:
    try:
        drafters.start()
        yield
    finally:
        drafters.stop()


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[tuple[Load, DrafterEndpoints]]:
    """Streams through an engine that drafts from the first of two drafters on this Redis."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="la-")))
        path = save_family("llama", folder)
        drafters, load = DrafterEndpoints(url, folder), Load()
        stack.enter_context(_running(drafters))
        # One thread: a model that takes all cores is slowed by whatever else the machine does.
        settings: dict[str, Any] = {"max_context": 512, "threads": 1}
        config = VerifierConfig(model=path, max_sequences=NUM_SLOTS, **settings)
        engine = await stack.enter_async_context(running_engine(config, drafters.address, load))
        tasks = [asyncio.create_task(load.stream(engine, n)) for n in range(STREAMS)]
        try:
            yield load, drafters
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
