"""A drafter's metrics: what they say is what its sessions and its memory hold."""

from pathlib import Path

import pytest

from bench.topologies.server import Server, running
from drafter.config import DrafterConfig
from drafter.drafting.sessions import DraftSessions
from drafter.memory.memory import SharedMemory
from drafter.metrics import DrafterMetrics
from drafter.server import build
from rpc.metrics import LOOKUP_S, Histogram
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SPACE = "v/default"
TEXT = list(range(10, 50))


def scraped(sessions: DraftSessions, memory: SharedMemory) -> dict[str, float]:
    """Return what a scrape would read: samples by name and labels."""
    metrics = DrafterMetrics(sessions, memory, Histogram(LOOKUP_S), {("Draft", "OK"): 2})
    return {
        sample.name.removeprefix("lookahead_")
        + "".join(f",{name}={value}" for name, value in sample.labels.items()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


async def test_sizes_follow_what_is_open_and_what_was_learned() -> None:
    sessions, memory = build(DrafterConfig())
    await memory.start()
    memory.load(SPACE)
    sessions.open(1, space=SPACE, token_ids=TEXT)
    during = scraped(sessions, memory)
    assert (during["sessions"], during["trie_tokens"]) == (1, 0)
    assert during["session_bytes"] > 0
    sessions.close(1)
    after = scraped(sessions, memory)
    await memory.stop()
    assert (after["sessions"], after["session_bytes"]) == (0, 0)
    # A run takes one place more than it has tokens: its end.
    assert after["trie_tokens"] == after["learn_tokens_total"] == len(TEXT) + 1
    assert after["trie_namespaces"] == 1
    assert after["calls_total,method=Draft,code=OK"] == 2
    assert "redis_up" not in after  # there is none to be up


async def test_redis_that_goes_away_shows_and_what_waits_for_it(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        sessions, memory = build(DrafterConfig(redis_url=server.url))
        await memory.start()
        try:
            memory.load(SPACE)
            await eventually(lambda: scraped(sessions, memory)["redis_up"] == 1)
            memory.append(SPACE, TEXT)
            await eventually(lambda: scraped(sessions, memory)["learn_tokens_total"] == len(TEXT))
            assert scraped(sessions, memory)["outbox_entries"] == 0
            server.kill()
            await eventually(lambda: scraped(sessions, memory)["redis_up"] == 0)
            memory.append(SPACE, TEXT)
            waiting = scraped(sessions, memory)
            assert (waiting["outbox_entries"], waiting["outbox_bytes"]) == (1, 4 * len(TEXT))
            await eventually(
                lambda: (
                    scraped(sessions, memory)["replication_lag_seconds"]
                    > waiting["replication_lag_seconds"]
                )
            )
        finally:
            await memory.stop()
