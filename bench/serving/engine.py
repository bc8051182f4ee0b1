"""What the engine itself takes, without a gRPC server around it: curve, overhead, drafting hop."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.serving.figures import Figure, median_ratio, percentile
from bench.serving.generate import Generate
from bench.serving.workloads import mixed
from lookahead.stack.child import ChildProcess
from rpc.contract import Learn
from rpc.health import is_serving
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters, StepStats
from verifier.engine.engine import Engine
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel
from verifier.request import Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.speculation.budget import StepCurve
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.tree import DraftTree
from verifier.text.stopping import StoppingParams
from verifier.text.tokenizer import Tokenizer

ROW_COUNTS = (1, 2, 4, 8, 16, 32)
STEP_BARS = {4: 1.2, 8: 1.5, 16: 2.0}
CONTEXT = 256
NUM_HOPS = 400
SUCCESSORS = np.tile(np.arange(8, dtype=np.int32), (2, 1))


class StepRecorder(Counters):
    """Counts, and keeps what every step did."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[StepStats] = []

    def count_step(self, stats: StepStats) -> None:
        """Count a step and keep it."""
        super().count_step(stats)
        self.steps.append(stats)


def measure_curve(model: TargetModel, rounds: int) -> StepCurve:
    """The shortest time of each row count over a context of ordinary length."""
    times: dict[int, list[float]] = {rows: [] for rows in ROW_COUNTS}
    with _filled_slot(model) as slot:
        for _ in range(rounds):
            for rows in ROW_COUNTS:
                times[rows].append(_pass_s(model, slot, rows))
    return StepCurve(ROW_COUNTS, [min(times[rows]) for rows in ROW_COUNTS])


@contextmanager
def _filled_slot(model: TargetModel) -> Iterator[int]:
    slot = model.slots.allocate()
    model.forward([prompt_segment(slot, 0, tuple(range(2, 2 + CONTEXT)), is_last=True)])
    model.commit(slot, list(range(CONTEXT)))
    yield slot
    model.slots.free(slot)


def _pass_s(model: TargetModel, slot: int, rows: int) -> float:
    chain = DraftTree(tuple(range(5, 4 + rows)), tuple(range(-1, rows - 2)), (1.0,) * (rows - 1))
    started = time.perf_counter()
    model.forward([draft_segment(slot, CONTEXT, 4, chain)])[:, 0].tolist()
    return time.perf_counter() - started


def step_curve(model: TargetModel, generate: Generate, *, rounds: int) -> list[Figure]:
    """A step's time by its rows, in turn with a step of generate."""
    plain, stock, curves = [], [], []
    prompt = list(range(2, 2 + CONTEXT))
    for _ in range(rounds):
        stock.append(generate.step_s([prompt], 8))
        curves.append(measure_curve(model, 2))
        plain.append(curves[-1].at(1))
    ratios = {n: statistics.median(c.at(n) / c.at(1) for c in curves) for n in ROW_COUNTS}
    return [
        Figure("curve", "T(1)", 1e3 * min(plain), "ms"),
        *(
            Figure("curve", f"T({n}) / T(1)", ratio, at_most=STEP_BARS.get(n))
            for n, ratio in ratios.items()
        ),
        Figure("curve", "plain step / step of generate", median_ratio(plain, stock), at_most=0.8),
    ]


@contextmanager
def running_drafter() -> Iterator[str]:
    """The address of a drafter of its own, without a shared memory."""
    with TemporaryDirectory(prefix="la-") as directory:
        address = f"unix:{directory}/d.sock"
        environ = {**os.environ, "LOOKAHEAD_DRAFTER_LISTEN": address}
        child = ChildProcess(
            "drafter", ["drafter"], log_path=Path(directory) / "log", environ=environ
        )
        try:
            while not is_serving(address):
                assert child.status is None, child.log_tail()
                time.sleep(0.1)
            yield address
        finally:
            child.stop(5.0)


@asynccontextmanager
async def connected(drafts: DraftClient) -> AsyncIterator[DraftClient]:
    """The client with its stream up."""
    drafts.start()
    try:
        while not drafts.is_connected:
            await asyncio.sleep(0.01)
        yield drafts
    finally:
        await drafts.stop()


def overhead(
    model: TargetModel, tokenizer: Tokenizer, curve: StepCurve, *, tokens: int
) -> list[Figure]:
    """The share of drafting steps that is spent outside the forward pass."""
    bars = {1: 5.0, 8: 10.0}
    figures = []
    with running_drafter() as address:
        for streams, bar in bars.items():
            prompts = [tokenizer.encode(prompt) for prompt in mixed(streams)]
            stats = asyncio.run(_steps(model, tokenizer, curve, address, prompts, tokens))
            whole = [step for step in stats if step.num_decoding > streams / 2]
            outside = [100 * (1 - step.forward_s / step.step_s) for step in whole]
            waits = [1e3 * step.draft_wait_s for step in whole]
            name = f"{streams} streams"
            figures += [
                Figure(
                    "overhead",
                    f"{name}: step time outside the pass, median",
                    statistics.median(outside),
                    "%",
                    at_most=bar,
                ),
                Figure(
                    "overhead",
                    f"{name}: waiting for drafts, median",
                    statistics.median(waits),
                    "ms",
                ),
            ]
    return figures


async def _steps(
    model: TargetModel,
    tokenizer: Tokenizer,
    curve: StepCurve,
    address: str,
    prompts: list[list[int]],
    tokens: int,
) -> list[StepStats]:
    """All steps without prompt rows of decoding the prompts together."""
    drafts = DraftClient(
        [address], vocabulary=tokenizer.fingerprint, vocabulary_size=model.vocabulary_size
    )
    measured = Measurements(curve)
    settings: dict[str, Any] = {"model": model.name}
    recorder = StepRecorder()
    engine = Engine(model, tokenizer, drafts, measured, VerifierConfig(**settings), recorder)
    engine.start()
    while not engine.drafting.is_connected:
        await asyncio.sleep(0.01)
    # Read the prompts beforehand, so that all sequences decode at once from their cached rows.
    await asyncio.gather(*(_read(engine, prompt, 1) for prompt in prompts))
    await asyncio.gather(*(_read(engine, prompt, tokens) for prompt in prompts))
    await engine.stop()
    return [step for step in recorder.steps if not step.num_prompt_rows]


async def _read(engine: Engine, prompt: list[int], tokens: int) -> None:
    request = Request(
        request_id="overhead",
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(),
        stopping=StoppingParams(max_tokens=tokens),
        speculation=Speculation(learn=Learn.NONE),
    )
    async for _ in engine.submit(request).stream():
        pass


def drafting_hop(tokenizer: Tokenizer) -> list[Figure]:
    """From asking for eight sequences' trees to having them, over a local socket."""
    with running_drafter() as address:
        prompts = [tokenizer.encode(prompt) for prompt in mixed(8)]
        seconds = asyncio.run(_hops(tokenizer, address, prompts))
    return [
        Figure("hop", "8 sequences, p50", 1e3 * statistics.median(seconds), "ms", at_most=1.0),
        Figure("hop", "8 sequences, p99", 1e3 * percentile(seconds, 0.99), "ms", at_most=3.0),
    ]


async def _hops(tokenizer: Tokenizer, address: str, prompts: list[list[int]]) -> list[float]:
    seconds = []
    speculation = Speculation(learn=Learn.NONE)
    client = DraftClient(
        [address], vocabulary=tokenizer.fingerprint, vocabulary_size=tokenizer.size
    )
    async with connected(client) as drafts:
        sequences = [list(prompt) for prompt in prompts]
        for i, sequence in enumerate(sequences):
            drafts.open(i, sequence, len(sequence), speculation)
        for step in range(NUM_HOPS):
            # The outputs copy their prompts, two tokens a step.
            for i, sequence in enumerate(sequences):
                start = 2 * step % (len(prompts[i]) - 2)
                sequence += prompts[i][start : start + 2]
                num_verified = len(drafts.tree(i))
                drafts.observe(i, num_verified=num_verified, successors=SUCCESSORS)
            drafts.request({i: 24 for i in range(len(sequences))})
            await asyncio.to_thread(drafts.wait, 1.0)
            seconds.append(drafts.last_hop_s)
            await asyncio.sleep(0.002)
    return seconds[NUM_HOPS // 10 :]
