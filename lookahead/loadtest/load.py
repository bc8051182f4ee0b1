"""Puts load on a server: bursts of requests, several at once, one mode after the other.

Modes take turns within each round, and every other round goes backwards, so that what a machine
does besides hits all of them alike.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lookahead.client.errors import LookaheadError
from lookahead.loadtest.prompts import Prompt
from lookahead.loadtest.target import Mode, ModeName, Reply, Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. Each burst asks `num_requests` times, the prompts in turn."""

    prompts: Sequence[Prompt]
    concurrencies: Sequence[int]
    modes: Sequence[Mode]
    rounds: int
    num_requests: int | None  # None: every prompt once, or as many as run at once
    seed: int


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst brought: per request its reply or why there is none."""

    mode: ModeName
    concurrency: int
    wall_s: float
    outcomes: tuple[Reply | str, ...]

    @property
    def replies(self) -> list[Reply]:
        """Those that came."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Reply)]

    @property
    def errors(self) -> list[str]:
        """Why the others did not."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, str)]

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of all its requests together, over its whole time."""
        return sum(reply.num_tokens for reply in self.replies) / self.wall_s


Report = Callable[[str], None]


def modes_of(target: Target, *, speculation: str, is_warm: bool) -> list[Mode]:
    """Return the modes that a target can be measured in."""
    if not target.has_modes:
        return [Mode("as served")]
    warm = [Mode("warm", f"loadtest-{secrets.token_hex(4)}", speculation)]  # type: ignore[arg-type]
    cold = [Mode("plain"), Mode("cold", speculation=speculation)]  # type: ignore[arg-type]
    return cold + (warm if is_warm else [])


def run(target: Target, plan: Plan, report: Report) -> Iterator[Burst]:
    """Warm up, then yield burst after burst."""
    report("warming up")
    target.ask(plan.prompts[0], _fresh(plan.modes[0]), plan.seed)
    for mode in plan.modes:
        if mode.name == "warm":
            report("teaching the memory")
            teaching = replace(mode, learn="all")
            burst(target, plan, teaching, concurrency=1, num_requests=len(plan.prompts))
    for concurrency in plan.concurrencies:
        num_requests = plan.num_requests or max(len(plan.prompts), concurrency)
        for round_index in range(plan.rounds):
            for mode in plan.modes if round_index % 2 == 0 else reversed(plan.modes):
                report(f"{concurrency} at once, {mode.name}, round {round_index + 1}")
                yield burst(target, plan, mode, concurrency=concurrency, num_requests=num_requests)


def burst(target: Target, plan: Plan, mode: Mode, *, concurrency: int, num_requests: int) -> Burst:
    """Ask `num_requests` times, `concurrency` at once, and wait for all."""
    settled = _fresh(mode)

    def ask(number: int) -> Reply | str:
        which = number % len(plan.prompts)
        try:
            return target.ask(plan.prompts[which], settled, plan.seed + which)
        except (LookaheadError, OSError) as error:
            return str(error)

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        outcomes = tuple(pool.map(ask, range(num_requests)))
    return Burst(mode.name, concurrency, time.perf_counter() - start, outcomes)


def _fresh(mode: Mode) -> Mode:
    """Give a mode that must know nothing a namespace that nobody used."""
    if mode.namespace or mode.name == "as served":
        return mode
    return replace(mode, namespace=f"loadtest-{secrets.token_hex(4)}")
