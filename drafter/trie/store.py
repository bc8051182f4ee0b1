"""Where the tries live that follow the log: the drafter's sessions, or a test's own."""

from typing import Protocol

from drafter.trie.snapshot import Arrays
from drafter.trie.token_run import TokenRun


class TokenTrie(Protocol):
    """What the log is replayed into: equal runs in equal order give equal digests."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def crowded(self) -> bool:
        """Tell whether learning will soon take long; a copy made from an export has room."""

    def learn(self, token_ids: TokenRun) -> None: ...
    def export(self) -> Arrays: ...
    def digest(self) -> str: ...


class Store(Protocol):
    """Where drafts find the trie of a space."""

    @property
    def max_bytes(self) -> int:
        """Bytes that one trie may take; replicas with another limit evict at another token."""

    @property
    def max_tokens(self) -> int:
        """Tokens that one trie may hold: of a longer export only the newest are of use."""

    def build(self, arrays: Arrays | None) -> TokenTrie:
        """Make a trie from an export, or an empty one; ValueError if refused. Any thread."""

    def place(self, space: str, trie: TokenTrie) -> None:
        """Draft from this trie from now on."""

    def forget(self, space: str) -> None:
        """Drop the trie and all else that the space has taught, by its owner's wish."""

    def num_bytes(self, space: str) -> int:
        """Memory of all that is kept for a space."""

    def in_use(self, space: str) -> bool:
        """Tell whether drafts are made for a space."""

    def unload(self, space: str) -> None:
        """Drop all that is kept for a space that is not in use."""
