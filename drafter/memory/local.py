"""A space that has no log: its trie lives and dies with this process."""

import asyncio

from drafter.trie.store import Store
from drafter.trie.token_run import TokenRun


class LocalMemory:
    """Learns at once; only while a larger copy of the trie is made, what is learned waits."""

    def __init__(self, space: str, store: Store) -> None:
        self._space, self._store = space, store
        self._waiting: list[TokenRun] = []
        self._growing: asyncio.Task[None] | None = None
        self.forget()

    def learn(self, run: TokenRun) -> None:
        """Learn one more run."""
        if self._growing is not None:
            self._waiting.append(run)
            return
        self.trie.learn(run)
        if self.trie.crowded:
            self._growing = asyncio.create_task(self._grow(), name=f"growing {self._space}")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the runs that wait to be learned."""
        return sum(run.nbytes for run in self._waiting)

    def forget(self) -> None:
        """Begin with nothing."""
        self.stop()
        self.trie = self._store.build(None)
        self._store.place(self._space, self.trie)

    def stop(self) -> None:
        """Let go of what waits."""
        if self._growing is not None:
            self._growing.cancel()
        self._growing = None
        self._waiting = []

    async def _grow(self) -> None:
        old = self.trie
        self.trie = await asyncio.to_thread(lambda: self._store.build(old.export()))
        self._store.place(self._space, self.trie)
        waiting, self._waiting, self._growing = self._waiting, [], None
        for run in waiting:
            self.learn(run)
