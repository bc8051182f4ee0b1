"""A space without a log: everything is learned once and in order, also while its trie grows."""

import numpy as np

from drafter.drafting.session_store import SessionStore
from drafter.drafting.sessions import DraftSessions
from drafter.memory.local import LocalMemory
from drafter.trie.trie import Trie
from tests.support.waiting import eventually

SPACE = "vocabulary/namespace"


async def test_runs_learned_while_the_trie_is_copied_come_after_those_before() -> None:
    sessions = DraftSessions(max_namespace_bytes=32 << 20)
    memory = LocalMemory(SPACE, SessionStore(sessions, max_namespace_bytes=32 << 20))
    inline = Trie(max_bytes=32 << 20)
    waited = 0
    for seed in range(60):
        run = np.random.default_rng(seed).integers(0, 5000, 5000, dtype=np.int32)
        memory.learn(run)
        inline.learn(run)
        waited += memory.waiting_bytes > 0
        if memory.waiting_bytes > 100_000:
            await eventually(lambda: memory.waiting_bytes == 0)
    await eventually(lambda: memory.trie.digest() == inline.digest())
    assert waited > 0
    assert sessions.trie(SPACE) is memory.trie
    memory.stop()


async def test_what_waits_is_forgotten_too() -> None:
    sessions = DraftSessions(max_namespace_bytes=32 << 20)
    memory = LocalMemory(SPACE, SessionStore(sessions, max_namespace_bytes=32 << 20))
    for _ in range(30):
        memory.learn(np.arange(5000, dtype=np.int32))
    assert memory.waiting_bytes > 0
    memory.forget()
    assert (memory.trie.num_tokens, memory.waiting_bytes) == (0, 0)
    memory.learn(np.arange(10, dtype=np.int32))
    assert memory.trie.num_tokens == 11
