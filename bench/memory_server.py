"""A private server with persistence, and memories of drafters over it, each a process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.memory_process import SPACE, MemoryProcess
from drafter.local_redis import LocalRedis
from drafter.memory import MemoryLimits
from drafter.replica import ReplicaLimits

LIMITS = MemoryLimits(max_bytes=4 << 30, max_outbox_bytes=256 << 20, max_outbox_runs=1 << 20)
NO_SNAPSHOTS = replace(LIMITS, replica=ReplicaLimits(snapshot_tokens=1 << 40))
PREFIX = f"lookahead:{{{SPACE}}}:"
LOG_KEY = f"{PREFIX}log"


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
