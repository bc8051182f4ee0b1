"""A flood of namespaces against one drafter, as figures with their bars."""

from bench.memory.namespaces import MAX_BYTES, namespaces
from bench.serving.figures import Figure

SECTION = "very many namespaces"


def many_namespaces(number: int) -> list[Figure]:
    """One request in each; then what it costs to do nothing."""
    found = namespaces(number)
    return [
        Figure(SECTION, "namespaces", found.num_namespaces, ""),
        Figure(SECTION, "opened", found.opened_per_s, "a second"),
        Figure(SECTION, "most memory over the limit", found.most_mb * 1e6 / MAX_BYTES, at_most=1.5),
        Figure(SECTION, "idle processor", found.idle_cpu_percent, "%", at_most=5),
        Figure(SECTION, "connections to Redis", found.most_connections, "", at_most=8),
        Figure(SECTION, "first one drafts again, from Redis, after", found.back_ms, "ms"),
    ]
