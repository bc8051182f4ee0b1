"""What a Redis says of itself that matters to a shared memory: read once, nothing is written."""

import time
from dataclasses import dataclass
from typing import Any

from drafter.log_connection import close_client, open_client

SECTIONS = ("server", "memory", "persistence", "replication")


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Of a single server, a Sentinel's master, or one node of a Cluster."""

    version: str
    is_writable: bool
    is_persistent: bool
    eviction: str  # maxmemory-policy
    used_share: float  # of maxmemory; 0 where there is no limit
    clock_ahead_s: float  # of this machine's


async def read_facts(url: str) -> RedisFacts:
    """Ask the Redis at `url`. ConnectionError or OSError where it does not answer, ValueError for
    a bad URL; redis-py's own errors where it refuses."""
    client: Any = open_client(url)
    node = {"target_nodes": "random"} if "+cluster" in url else {}
    try:
        info: dict[str, Any] = {}
        for section in SECTIONS:
            info |= _one(await client.info(section, **node))
        seconds, micros = _one(await client.time(**node))
        ahead_s = int(seconds) + int(micros) / 1e6 - time.time()
    finally:
        await close_client(client)
    limit = int(info.get("maxmemory", 0))
    return RedisFacts(
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        is_writable=info.get("role") == "master",
        is_persistent=bool(info.get("aof_enabled")),
        eviction=str(info.get("maxmemory_policy", "")),
        used_share=int(info.get("used_memory", 0)) / limit if limit else 0.0,
        clock_ahead_s=ahead_s,
    )


def _one(answer: Any) -> Any:
    """A Cluster's answer names the node that gave it."""
    is_named = isinstance(answer, dict) and len(answer) == 1
    return next(iter(answer.values())) if is_named else answer
