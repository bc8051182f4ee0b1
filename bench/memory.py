"""The shared memory measured over real processes and a private server: `python -m bench.memory`.

Latency from one drafter's close to another's trie, what a crash and faults of Redis cost, and the
rates, sizes and start times at ten million tokens.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from bench.corpus import documents
from bench.fault_servers import KINDS
from bench.memory_drafts import Drafting, drafting
from bench.memory_faults import fault_costs
from bench.memory_plot import plot
from bench.memory_process import MemoryProcess, wait
from bench.memory_sizes import PREFIX, Size, size
from drafter.local_redis import LocalRedis
from drafter.memory import MemoryLimits
from drafter.replica import ReplicaLimits
from drafter.token_run import TokenRun

LIMITS = MemoryLimits(max_bytes=4 << 30, max_outbox_bytes=256 << 20, max_outbox_runs=1 << 20)
NO_SNAPSHOTS = replace(LIMITS, replica=ReplicaLimits(snapshot_tokens=1 << 40))
LOG_KEY = f"{PREFIX}log"


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


@dataclass(frozen=True, slots=True)
class Sizes:
    """The bytes of a memory by its tokens."""

    points: dict[int, Size]


@dataclass(frozen=True, slots=True)
class Scale:
    """Many tokens through Redis."""

    num_tokens: int
    append_tokens_per_s: float
    apply_tokens_per_s: float  # by a replica that catches up with the log
    log_bytes_per_token: float
    snapshot_s: float
    snapshot_bytes_per_token: float
    redis_bytes_per_token: float  # log and snapshot, as the server counts its memory
    start_from_log_s: float
    start_from_snapshot_s: float
    digests_equal: bool


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="size of the scale figure")
    sections = ["latency", "agreement", "crash", "drafts", "faults", "sizes", "scale"]
    parser.add_argument("--only", choices=sections)
    parser.add_argument("--redis", choices=KINDS, nargs="+", help="faults of these servers only")
    parser.add_argument("--rounds", type=int, default=4, help="how often each fault is met")
    parser.add_argument("--plot", type=Path, help="draw the scale figure at several sizes here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.plot:
        points = [scale(options.tokens // share) for share in (100, 10, 3, 1)]
        plot(points, options.plot)
        print(json.dumps([asdict(point) for point in points], indent=2))
        return
    figures: dict[str, Callable[[], object]] = {
        "latency": latency,
        "agreement": agreement,
        "crash": crash,
        "drafts": drafts,
        "faults": lambda: fault_costs(options.redis or tuple(KINDS), options.rounds),
        "sizes": lambda: sizes(options.tokens),
        "scale": lambda: scale(options.tokens),
    }
    found = {
        name: asdict(measure())  # type: ignore[call-overload]
        for name, measure in figures.items()
        if options.only in (None, name)
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, fields in found.items():
        _print(name, fields)


@contextmanager
def server() -> Iterator[LocalRedis]:
    """Run a private server with persistence on, as `lookahead serve` does."""
    with tempfile.TemporaryDirectory() as folder:
        redis = LocalRedis(Path(folder) / "redis")
        redis.start()
        try:
            yield redis
        finally:
            redis.stop()


def start(redis: LocalRedis, limits: MemoryLimits = LIMITS) -> MemoryProcess:
    process = MemoryProcess(redis.url, limits)
    process.call("start")
    return process


def latency(num_runs: int = 1000, runs_per_s: float = 100.0) -> Latency:
    """Append at a steady rate in one process and see when the other has it."""
    with server() as redis:
        one, two = start(redis), start(redis)
        one.call("pace", 0, runs_per_s, 300)
        wait(lambda: len(two.call("learned_at")) >= num_runs, step_s=0.5)
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
        wait(lambda: _settled(redis, group))
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


def drafts() -> Drafting:
    """Time a drafter's replies while its memory learns in bulk and writes snapshots."""
    with server() as redis:
        return drafting(redis)


def sizes(num_tokens: int) -> Sizes:
    """Weigh memories of 1,000 tokens, ten times as many, and so on."""
    points, number = {}, 1000
    while number <= num_tokens:
        with server() as redis:
            points[number] = size(redis, number, NO_SNAPSHOTS)
        number *= 10
    return Sizes(points)


def scale(num_tokens: int) -> Scale:
    """Push real text through the log, then start replicas from it and from a snapshot."""
    runs = documents(num_tokens)
    total = sum(len(run) for run in runs)
    with server() as redis:
        client = Redis(unix_socket_path=redis.url.removeprefix("unix://"))
        writer = start(redis, NO_SNAPSHOTS)
        append_s = writer.append_all(runs)
        writer.stop()
        log_bytes = int(client.memory_usage(LOG_KEY, samples=0) or 0)
        reader = MemoryProcess(redis.url, NO_SNAPSHOTS)
        from_log_s = reader.call("start")
        snapshot_s = reader.call("snapshot")
        used = _snapshot_bytes(client)
        memory = client.info("memory")["used_memory"] - client.info("memory")["used_memory_startup"]
        loader = MemoryProcess(redis.url, NO_SNAPSHOTS)
        from_snapshot_s = loader.call("start")
        states = [process.state() for process in (reader, loader)]
        for process in (reader, loader):
            process.stop()
        client.close()
    return Scale(
        num_tokens=total,
        append_tokens_per_s=total / append_s,
        apply_tokens_per_s=total / from_log_s,
        log_bytes_per_token=log_bytes / total,
        snapshot_s=snapshot_s,
        snapshot_bytes_per_token=used / total,
        redis_bytes_per_token=memory / total,
        start_from_log_s=from_log_s,
        start_from_snapshot_s=from_snapshot_s,
        digests_equal=len({state.digest for state in states}) == 1,
    )


def _numbered_runs(rng: np.random.Generator, first: int, number: int) -> list[TokenRun]:
    runs = rng.integers(0, 1 << 17, (number, 64), dtype=np.int32)
    runs[:, 0] = np.arange(first, first + number)
    return list(runs)


def _settled(redis: LocalRedis, group: list[MemoryProcess]) -> bool:
    """Tell whether nobody has anything to send and all stand at the log's end."""
    if any(process.call("progress")[1] for process in group):
        return False
    with Redis(unix_socket_path=redis.url.removeprefix("unix://")) as client:
        end = client.xinfo_stream(LOG_KEY)["last-generated-id"].decode()
    return {process.state().position.partition(":")[2] for process in group} == {end}


def _snapshot_bytes(client: Redis) -> int:
    keys = client.keys(f"{PREFIX}snapshot-*")
    return sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)


def _print(name: object, fields: dict[Any, Any], indent: str = "") -> None:
    """One line of numbers, then a line for each group of numbers."""
    groups = {key: value for key, value in fields.items() if isinstance(value, dict)}
    numbers = (f"{key}={_short(fields[key])}" for key in fields if key not in groups)
    print(f"{indent}{name}: " + "  ".join(numbers))
    for key, group in groups.items():
        _print(key, group, indent + "  ")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
