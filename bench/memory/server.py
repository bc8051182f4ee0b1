"""A private server with persistence, and memories of drafters over it, each a process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis import Redis

from bench.memory.process import SPACE, MemoryProcess
from drafter.memory.memory import MemoryLimits
from drafter.memory.replica import ReplicaLimits
from drafter.memory.room import RoomLimits
from lookahead.stack.private_redis import LocalRedis

LIMITS = MemoryLimits(
    room=RoomLimits(max_bytes=4 << 30, max_tenant_bytes=4 << 30),
    max_outbox_bytes=256 << 20,
    max_outbox_runs=1 << 20,
)
NO_SNAPSHOTS = replace(LIMITS, replica=ReplicaLimits(snapshot_tokens=1 << 40))
PREFIX = f"lookahead:{{{SPACE}}}:"
LOG_KEY = f"{PREFIX}log"
SNAPSHOT_KEYS = f"{PREFIX}snapshot-"


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


def connect(redis: LocalRedis) -> Any:
    """A plain client of the server."""
    return Redis(unix_socket_path=redis.url.removeprefix("unix://"))


def key_bytes(client: Any) -> dict[str, int]:
    """The memory that each key of the space takes, with all that the server adds to it."""
    keys = [key.decode() for key in client.keys(f"{PREFIX}*")]
    return {key: int(client.memory_usage(key, samples=0) or 0) for key in keys}


def snapshot_bytes(usage: dict[str, int]) -> int:
    """What of `key_bytes` snapshots take."""
    return sum(size for key, size in usage.items() if key.startswith(SNAPSHOT_KEYS))


def start(redis: LocalRedis, limits: MemoryLimits = LIMITS) -> MemoryProcess:
    process = MemoryProcess(redis.url, limits)
    process.call("start")
    return process
