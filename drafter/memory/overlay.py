"""Drafts from a copy that has also learned what waits for Redis, while Redis is away.

Order is part of the state, so own runs must not enter the trie before their place in the log is
known. When the log moves on the copy is dropped; the runs come back through the log.
"""

from collections.abc import Callable

from drafter.runtime import Runtime
from drafter.trie.store import Store, TokenTrie
from drafter.trie.token_run import TokenRun


class Overlay:
    """At most one copy of a space's trie, and when the last one was dropped."""

    def __init__(
        self,
        space: str,
        store: Store,
        runtime: Runtime,
        *,
        waiting: Callable[[], list[TokenRun]],
    ) -> None:
        self.trie: TokenTrie | None = None
        self._space, self._store, self._runtime = space, store, runtime
        self._waiting = waiting

    async def prepare(self, trie: TokenTrie) -> TokenTrie:
        """Copy a trie that nobody changes meanwhile and let the copy learn what waits."""
        waiting = self._waiting()
        copy: TokenTrie = await self._runtime.offload(self._taught_copy, trie, waiting)
        known = {id(run) for run in waiting}
        for run in self._waiting():
            if id(run) not in known:
                copy.learn(run)
        return copy

    def enter(self, copy: TokenTrie) -> None:
        """Draft from the copy from now on."""
        self.trie = copy
        self._store.place(self._space, copy)

    def learn(self, run: TokenRun) -> None:
        """Let the copy learn one more run."""
        if self.trie is not None:
            self.trie.learn(run)

    def leave(self, trie: TokenTrie) -> bool:
        """Draft from the given trie again; False where that was so already."""
        if self.trie is None:
            return False
        self.trie = None
        self._store.place(self._space, trie)
        return True

    def _taught_copy(self, trie: TokenTrie, runs: list[TokenRun]) -> TokenTrie:
        copy = self._store.build(trie.export())
        for run in runs:
            copy.learn(run)
        return copy
