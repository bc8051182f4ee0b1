"""Rates, sizes and start times of a large memory: `python -m bench.memory --only scale`."""

from dataclasses import dataclass

from bench.corpus import documents
from bench.memory.process import MemoryProcess
from bench.memory.server import (
    LOG_KEY,
    NO_SNAPSHOTS,
    connect,
    key_bytes,
    server,
    snapshot_bytes,
    start,
)


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


def scale(num_tokens: int) -> Scale:
    """Push real text through the log, then start replicas from it and from a snapshot."""
    runs = documents(num_tokens)
    total = sum(len(run) for run in runs)
    with server() as redis:
        client = connect(redis)
        writer = start(redis, NO_SNAPSHOTS)
        append_s = writer.append_all(runs)
        writer.stop()
        log_bytes = key_bytes(client)[LOG_KEY]
        reader = MemoryProcess(redis.url, NO_SNAPSHOTS)
        from_log_s = reader.call("start")
        snapshot_s = reader.call("snapshot")
        used = snapshot_bytes(key_bytes(client))
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
