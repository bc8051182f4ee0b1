"""A drafter's metrics: names and meanings for what its sessions and its memory count."""

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from drafter.drafting.sessions import DraftSessions, SessionStats
from drafter.memory.memory import SharedMemory
from drafter.memory.status import MemoryStatus
from rpc.metrics import PREFIX, Histogram, counter, gauge, histogram, labelled_counter


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
        yield histogram("draft_lookup_seconds", "Time to draft one tree.", self._lookup_s)
        yield gauge("sessions", "Open sequences.", stats.num_sequences)
        yield gauge(
            "session_bytes", "Memory of the open sequences' own tries.", stats.num_local_bytes
        )
        yield counter("proposed_tokens", "Drafted tokens sent.", stats.num_proposed)
        calls = CounterMetricFamily(
            PREFIX + "calls",
            "Finished calls, by method and status.",
            labels=["method", "code"],
        )
        for (method, code), number in self._calls.items():
            calls.add_metric([method, code], number)
        yield calls


def _tries(stats: SessionStats, status: MemoryStatus) -> Iterator[Metric]:
    yield gauge("trie_namespaces", "Namespaces in memory.", status.num_spaces)
    yield gauge("trie_tokens", "Tokens in the tries of all namespaces.", status.num_tokens)
    yield gauge("trie_bytes", "Memory of what all namespaces have learned.", status.num_bytes)
    yield counter("trie_evictions", "Namespaces unloaded to make room for others.", status.unloaded)
    yield counter(
        "learn_tokens",
        "Tokens learned from all drafters.",
        status.applied_tokens if status.shared else stats.num_learned,
    )
    yield counter(
        "learn_refused_tokens",
        "Tokens not learned because their tenant had learned too many within a minute.",
        status.refused_tokens,
    )


def _log(status: MemoryStatus) -> Iterator[Metric]:
    yield gauge("redis_up", "1 if Redis answered within the last second, else 0.", status.connected)
    yield gauge("outbox_entries", "Finished token runs waiting for Redis.", status.outbox_runs)
    yield gauge("outbox_bytes", "Size of the token runs waiting for Redis.", status.outbox_bytes)
    yield gauge(
        "outbox_oldest_seconds",
        "Time that the oldest token run has waited for Redis.",
        status.oldest_waiting_s,
    )
    yield counter(
        "outbox_dropped", "Token runs dropped because the outbox was full.", status.outbox_dropped
    )
    yield gauge(
        "replication_lag_entries",
        "Log entries seen but not yet applied.",
        status.lag_entries,
    )
    yield gauge(
        "replication_lag_seconds",
        "Time for which the slowest namespace is, or may be, behind.",
        status.lag_s,
    )
    yield counter("replication_holes", "Log entries that Redis lost.", status.holes)
    yield counter("replication_skipped", "Log entries that could not be read.", status.skipped)
    yield labelled_counter(
        "resync", "Replicas that restarted from a snapshot, by reason.", "reason", status.resyncs
    )
    yield gauge(
        "namespaces_in_trouble",
        "Namespaces that Redis holds in a form that cannot be followed.",
        status.num_in_trouble,
    )
    yield labelled_counter(
        "repair", "Repairs of what Redis held, by what was wrong.", "reason", status.repairs
    )
    yield gauge(
        "limit_mismatches",
        "Namespaces whose newest snapshot has another max_namespace_bytes than this drafter.",
        status.num_other_limits,
    )
    yield counter("snapshots", "Snapshots written.", status.snapshots)
    if status.snapshot_age_s is not None:
        yield gauge(
            "snapshot_age_seconds",
            "How far the newest snapshot is behind its log, for the namespace furthest behind.",
            status.snapshot_age_s,
        )
