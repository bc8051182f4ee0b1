"""What faults of Redis cost generation: `python -m bench.memory --only faults`.

Streams of a small random model draft from one of two drafters without a break, and verify all that
they are sent. Stretches with a fault alternate with calm ones, and each is compared with the calm
before and after it, so that the drift of a busy machine cancels out. Calm stretches are compared
with each other in the same way: what they differ by is noise. Two figures have little of that. The
time of steps over the time of the model's passes in them: no machine's mood changes it, and waiting
for Redis would. And the drafters' processor time: where the model runs on the same cores, it is
what a fault can take from its passes.
"""

import asyncio
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.memory.fault_servers import KINDS, Fault
from bench.memory.fault_traffic import DrafterEndpoints, Load, Stretch, traffic

WARM_UP_S = 5.0
CALM_S, RECOVERY_S = 2.5, 1.0

Triple = tuple[Stretch, Stretch, Stretch]  # one, the calm before it, the calm after it


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the rounds, as shares of the calm stretches around each fault."""

    step: float  # 1.02: a step takes 2 % longer
    per_forward: float  # the same in units of the model's own passes, as slow as the machine is
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
    all_faults: Cost
    faults: dict[str, Cost]
    generated: int
    failed: int


@dataclass(slots=True)
class Measured:
    """Stretches of all kinds of servers."""

    calm: list[Stretch] = field(default_factory=list)
    noise: list[Triple] = field(default_factory=list)
    faults: dict[str, list[Triple]] = field(default_factory=lambda: defaultdict(list))
    generated: int = 0
    failed: int = 0


def fault_costs(kinds: Sequence[str] = tuple(KINDS), rounds: int = 4) -> FaultCosts:
    """Alternate calm and faults on each kind of server, one kind after the other."""
    measured = Measured()
    for kind in kinds:
        asyncio.run(_measure(kind, rounds, measured))
    return FaultCosts(
        calm_step_ms=statistics.median(stretch.step_ms for stretch in measured.calm),
        calm_drafter_cores=statistics.median(stretch.drafter_cores for stretch in measured.calm),
        noise=cost(measured.noise),
        all_faults=cost([triple for triples in measured.faults.values() for triple in triples]),
        faults={name: cost(triples) for name, triples in measured.faults.items()},
        generated=measured.generated,
        failed=measured.failed,
    )


def cost(triples: Sequence[Triple]) -> Cost:
    """Compare stretches with the calm around them."""
    found = [stretch for stretch, _, _ in triples]
    return Cost(
        step=_share(triples, lambda stretch: stretch.step_ms),
        per_forward=_share(triples, lambda stretch: stretch.per_forward),
        tokens_per_s=_share(triples, lambda stretch: stretch.tokens_per_s),
        tokens_per_step=_share(triples, lambda stretch: stretch.tokens_per_step),
        longest_step_ms=max(stretch.longest_ms for stretch in found),
        drafter_cores=statistics.median(stretch.drafter_cores for stretch in found),
        rounds=len(triples),
    )


def _share(triples: Sequence[Triple], value: Callable[[Stretch], float]) -> float:
    """A stretch's value over the geometric mean of its neighbours', which favours neither."""
    return statistics.median(
        value(found) / math.sqrt(value(before) * value(after)) for found, before, after in triples
    )


async def _measure(kind: str, rounds: int, measured: Measured) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="la-")))
        redis = await asyncio.to_thread(stack.enter_context, KINDS[kind](folder))
        async with traffic(redis.url) as (load, drafters):
            await asyncio.sleep(WARM_UP_S)
            calm = [await _calm(load, drafters)]
            for _ in range(rounds):
                for name, fault in redis.faults(drafters).items():
                    hurt = await _endure(load, drafters, fault)
                    calm.append(await _calm(load, drafters))
                    measured.faults[name].append((hurt, calm[-2], calm[-1]))
    measured.calm += calm
    measured.noise += zip(calm[1:-1], calm[:-2], calm[2:], strict=True)
    measured.generated += load.generated
    measured.failed += len(load.failures)


async def _calm(load: Load, drafters: DrafterEndpoints) -> Stretch:
    began, drafter_s = time.monotonic(), drafters.processor_s()
    await asyncio.sleep(CALM_S + RECOVERY_S)
    return load.stretch(began, time.monotonic(), drafters.processor_s() - drafter_s)


async def _endure(load: Load, drafters: DrafterEndpoints, fault: Fault) -> Stretch:
    """Some seconds with a fault; recovery counts too."""
    if fault.prepare is not None:
        await asyncio.to_thread(fault.prepare)
        await asyncio.sleep(WARM_UP_S)
    began, drafter_s = time.monotonic(), drafters.processor_s()
    await asyncio.to_thread(fault.hurt)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(fault.heal)
    await asyncio.sleep(RECOVERY_S)
    return load.stretch(began, time.monotonic(), drafters.processor_s() - drafter_s)
