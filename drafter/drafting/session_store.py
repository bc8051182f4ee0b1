"""Puts the tries that follow the log where the live sequences draft from."""

from contextlib import suppress

from drafter.drafting.sessions import DraftSessions
from drafter.trie.snapshot import Arrays
from drafter.trie.store import TokenTrie
from drafter.trie.trie import Trie, largest_capacity


class SessionStore:
    """The Store of the shared memory over draft sessions."""

    def __init__(self, sessions: DraftSessions, *, max_namespace_bytes: int) -> None:
        self._sessions = sessions
        self._max_namespace_bytes = max_namespace_bytes

    @property
    def max_bytes(self) -> int:
        return self._max_namespace_bytes

    @property
    def max_tokens(self) -> int:
        return largest_capacity(self._max_namespace_bytes)

    def build(self, arrays: Arrays | None) -> Trie:
        trie = Trie(max_bytes=self._max_namespace_bytes, lock=self._sessions.lock)
        if arrays is not None:
            trie.restore(arrays)
        return trie

    def place(self, space: str, trie: TokenTrie) -> None:
        assert isinstance(trie, Trie), f"{type(trie).__name__} is not what build returns"
        self._sessions.memory(space).trie = trie

    def forget(self, space: str) -> None:
        self._sessions.forget(space)

    def num_bytes(self, space: str) -> int:
        return self._sessions.num_bytes(space)

    def in_use(self, space: str) -> bool:
        return self._sessions.in_use(space)

    def unload(self, space: str) -> None:
        with suppress(KeyError):  # forgotten, and nothing was drafted since
            self._sessions.unload(space)
