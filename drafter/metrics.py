"""A drafter's metrics: names and meanings for what its sessions and its memory count."""

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from drafter.drafting.sessions import DraftSessions, SessionStats
from drafter.memory.memory import SharedMemory
from drafter.memory.status import MemoryStatus
from rpc.histogram import Histogram
from rpc.metrics import PREFIX, counter, gauge, histogram, labelled_counter


class DrafterMetrics:
    """Reads the numbers when somebody scrapes; to be called on the drafter's event loop."""

    def __init__(
        self,
        sessions: DraftSessions,
        memory: SharedMemory,
        lookup_s: Histogram,
        calls: Mapping[tuple[str, str], int],
    ) -> None:
        """`calls` counts calls that ended, by method and status."""
        self._sessions = sessions
        self._memory = memory
        self._lookup_s = lookup_s
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        stats, status = self._sessions.stats(), self._memory.status()
        yield from self._drafting(stats)
        yield from _tries(stats, status)
        if status.shared:
            yield from _log(status)

    def _drafting(self, stats: SessionStats) -> Iterator[Metric]:
        yield histogram("draft_lookup_seconds", "Drafting one tree from the tries.", self._lookup_s)
        yield gauge("sessions", "Sequences that are open.", stats.num_sequences)
        yield gauge("session_bytes", "Their own tries.", stats.num_local_bytes)
        yield counter("proposed_tokens", "Drafted tokens sent.", stats.num_proposed)
        calls = CounterMetricFamily(
            PREFIX + "calls",
            "Calls that ended, by method and status.",
            labels=["method", "code"],
        )
        for (method, code), number in self._calls.items():
            calls.add_metric([method, code], number)
        yield calls


def _tries(stats: SessionStats, status: MemoryStatus) -> Iterator[Metric]:
    yield gauge("trie_namespaces", "Namespaces in memory.", status.num_spaces)
    yield gauge("trie_tokens", "Tokens that their tries hold.", status.num_tokens)
    yield gauge("trie_bytes", "Memory that their tries take.", status.num_bytes)
    yield counter("trie_evictions", "Namespaces unloaded to make room for others.", status.unloaded)
    yield counter(
        "learn_tokens",
        "Tokens learned, from all drafters.",
        status.applied_tokens if status.shared else stats.num_learned,
    )


def _log(status: MemoryStatus) -> Iterator[Metric]:
    yield gauge("redis_up", "Whether Redis answered within the last second.", status.connected)
    yield gauge("outbox_entries", "Finished runs that wait for Redis.", status.outbox_runs)
    yield gauge("outbox_bytes", "Their size.", status.outbox_bytes)
    yield gauge("outbox_oldest_seconds", "How long the first waits.", status.oldest_waiting_s)
    yield counter(
        "outbox_dropped", "Runs dropped because the outbox was full.", status.outbox_dropped
    )
    yield gauge(
        "replication_lag_entries",
        "Entries of the log seen but not applied yet.",
        status.lag_entries,
    )
    yield gauge(
        "replication_lag_seconds",
        "How long the slowest namespace may have missed something.",
        status.lag_s,
    )
    yield counter("replication_holes", "Entries that Redis lost.", status.holes)
    yield counter("replication_skipped", "Entries that could not be read.", status.skipped)
    yield labelled_counter(
        "resync", "Replicas that began again from a snapshot, by why.", "reason", status.resyncs
    )
    yield gauge(
        "limit_mismatches",
        "Namespaces whose newest snapshot is by a drafter with another max_namespace_bytes.",
        status.num_other_limits,
    )
    yield counter("snapshots", "Snapshots written.", status.snapshots)
    if status.snapshot_age_s is not None:
        yield gauge(
            "snapshot_age_seconds",
            "How far the oldest newest snapshot lies behind its log.",
            status.snapshot_age_s,
        )
