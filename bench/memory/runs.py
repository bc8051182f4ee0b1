"""What becomes of runs that drafters append: when others have them, and what a crash loses."""

import time
from dataclasses import dataclass

import numpy as np

from bench.memory.process import MAX_WAIT_S, POLL_S, MemoryProcess
from bench.memory.server import LIMITS, LOG_KEY, connect, server, start
from bench.topologies.server import wait_until
from drafter.trie.token_run import TokenRun
from lookahead.stack.private_redis import LocalRedis


@dataclass(frozen=True, slots=True)
class Latency:
    """From `append` in one process to the trie of another."""

    num_runs: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Many producers, each stopped or killed and replaced on the way."""

    num_producers: int
    num_runs: int
    num_stops: int
    num_kills: int
    unacknowledged: int  # runs that no log had acknowledged when their producer was killed
    runs_held: int
    counted_twice: int
    duplicates_dropped: int
    digests_equal: bool


@dataclass(frozen=True, slots=True)
class Crash:
    """kill -9 of a drafter in traffic, and its restart."""

    appended: int
    older_than_1_s: int
    back: int
    counted_twice: int
    num_tokens: int
    ready_s: float


def latency(num_runs: int = 1000, runs_per_s: float = 100.0) -> Latency:
    """Append at a steady rate in one process and see when the other has it."""
    with server() as redis:
        one, two = start(redis), start(redis)
        one.call("pace", 0, runs_per_s, 300)
        wait_until(lambda: len(two.call("learned_at")) >= num_runs, MAX_WAIT_S, step_s=0.5)
        sent, seen = dict(one.call("appended")), two.call("learned_at")
        # The first runs meet code that is not loaded yet.
        times = [1e3 * (seen[run] - sent[run]) for run in range(20, num_runs)]
        one.stop()
        two.stop()
    p50, p99, longest = np.percentile(times, [50, 99, 100])
    return Latency(len(times), float(p50), float(p99), float(longest))


def agreement(num_runs: int = 10_000, num_producers: int = 4, restarts: int = 2) -> Agreement:
    """Append from several processes; stop or kill each now and then; compare digests."""
    rng = np.random.default_rng(1)
    per_turn = num_runs // num_producers // (restarts + 1)
    kills = unacknowledged = 0
    with server() as redis:
        group = [start(redis) for _ in range(num_producers)]
        first = 0
        for turn in range(restarts + 1):
            for index, process in enumerate(group):
                process.call("append", _numbered_runs(rng, first, per_turn))
                first += per_turn
                if turn == restarts:
                    continue
                if (turn + index) % 2:
                    process.stop()
                else:
                    # More may be acknowledged until the signal arrives, never less.
                    unacknowledged += process.call("progress")[1]
                    process.kill()
                    kills += 1
                group[index] = start(redis)
        wait_until(lambda: _settled(redis, group), MAX_WAIT_S, POLL_S)
        states = [process.state() for process in group]
        held = group[0].call("tokens")
        for process in group:
            process.stop()
    return Agreement(
        num_producers=num_producers,
        num_runs=first,
        num_stops=restarts * num_producers - kills,
        num_kills=kills,
        unacknowledged=unacknowledged,
        runs_held=len(set(held)),
        counted_twice=len(held) - len(set(held)),
        duplicates_dropped=max(state.duplicates for state in states),
        digests_equal=len({state.digest for state in states}) == 1,
    )


def crash(seconds: float = 8.0, runs_per_s: float = 500.0) -> Crash:
    """Kill a drafter in traffic; count what its successor has of what was appended."""
    with server() as redis:
        one = start(redis)
        one.call("pace", 0, runs_per_s, 300)
        time.sleep(seconds)
        sent, killed = one.call("appended"), time.monotonic()
        one.kill()
        two = MemoryProcess(redis.url, LIMITS)
        ready_s = two.call("start")
        held = two.call("tokens")
        num_tokens = two.state().num_tokens
        two.stop()
    old = {run for run, at in sent if at < killed - 1.0}
    return Crash(
        appended=len(sent),
        older_than_1_s=len(old),
        back=len(old & set(held)),
        counted_twice=len(held) - len(set(held)),
        num_tokens=num_tokens,
        ready_s=ready_s,
    )


def _numbered_runs(rng: np.random.Generator, first: int, number: int) -> list[TokenRun]:
    runs = rng.integers(0, 1 << 17, (number, 64), dtype=np.int32)
    runs[:, 0] = np.arange(first, first + number)
    return list(runs)


def _settled(redis: LocalRedis, group: list[MemoryProcess]) -> bool:
    """Tell whether nobody has anything to send and all stand at the log's end."""
    if any(process.call("progress")[1] for process in group):
        return False
    with connect(redis) as client:
        end = client.xinfo_stream(LOG_KEY)["last-generated-id"].decode()
    return {process.state().position.partition(":")[2] for process in group} == {end}
