"""How many bytes a memory takes by its tokens: `python -m bench.memory --only sizes`.

Redis's part is `MEMORY USAGE` of the keys, with all that the server adds to them; the drafter's
part is what its trie takes.
"""

from dataclasses import dataclass

from bench.corpus import documents
from bench.memory.server import (
    LOG_KEY,
    NO_SNAPSHOTS,
    connect,
    key_bytes,
    server,
    snapshot_bytes,
    start,
)
from drafter.trie.token_run import TokenRun
from lookahead.stack.private_redis import LocalRedis


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of one space with one snapshot, and of its trie in a drafter."""

    num_tokens: int
    num_entries: int
    log_bytes: int
    snapshot_bytes: int
    other_bytes: int  # of all other keys of the space
    redis_bytes_per_token: float
    trie_bytes: int
    trie_bytes_per_token: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """The bytes of a memory by its tokens."""

    points: dict[int, Size]


def sizes(num_tokens: int) -> Sizes:
    """Weigh memories of 1,000 tokens, ten times as many, and so on."""
    points, number = {}, 1000
    while number <= num_tokens:
        with server() as redis:
            points[number] = size(redis, number)
        number *= 10
    return Sizes(points)


def size(redis: LocalRedis, num_tokens: int) -> Size:
    """Learn that many tokens of text through an empty Redis, and weigh what that takes."""
    runs = _cut(documents(max(num_tokens, 1000)), num_tokens)
    process = start(redis, NO_SNAPSHOTS)
    process.append_all(runs)
    process.call("snapshot")
    trie_bytes = process.call("num_bytes")
    with connect(redis) as client:
        usage = key_bytes(client)
        entries = int(client.xlen(LOG_KEY))
    process.stop()
    total, log, snapshot = sum(usage.values()), usage[LOG_KEY], snapshot_bytes(usage)
    return Size(
        num_tokens=num_tokens,
        num_entries=entries,
        log_bytes=log,
        snapshot_bytes=snapshot,
        other_bytes=total - log - snapshot,
        redis_bytes_per_token=total / num_tokens,
        trie_bytes=trie_bytes,
        trie_bytes_per_token=trie_bytes / num_tokens,
    )


def _cut(runs: list[TokenRun], num_tokens: int) -> list[TokenRun]:
    """The first tokens, exactly so many."""
    found, left = [], num_tokens
    for run in runs:
        if left <= 0:
            break
        found.append(run[:left])
        left -= len(found[-1])
    assert left == 0, f"{left} tokens are missing"
    return found
