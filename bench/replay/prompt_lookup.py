"""Prompt lookup as transformers ships it: copy what followed the leftmost match of the last tokens.

Method: Saxena, "Prompt Lookup Decoding" (2023). One chain, no memory across requests.
"""

from collections.abc import Sequence

from bench.replay.draft import Draft

MAX_MATCH_LEN = 3
NUM_TOKENS = 10


class PromptLookup:
    """Remembers where each run of one to three tokens was first seen in this request."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._first_end: dict[tuple[int, ...], int] = {}

    def open(self, token_ids: Sequence[int]) -> None:
        """Start over with this prompt."""
        self._token_ids = []
        self._first_end = {}
        self._append(token_ids)

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Extend the text to copy from."""
        self._append(token_ids)

    def propose(self, max_nodes: int) -> Draft:
        """Copy the continuation of the leftmost, longest match."""
        for match_len in range(min(MAX_MATCH_LEN, len(self._token_ids) - 1), 0, -1):
            end = self._first_end[tuple(self._token_ids[-match_len:])]
            if end < len(self._token_ids):
                copied = self._token_ids[end : end + min(NUM_TOKENS, max_nodes)]
                return Draft(copied, list(range(-1, len(copied) - 1)))
        return Draft([], [])

    def close(self) -> None:
        """Forget the request; the method has no other memory."""
        self._token_ids = []
        self._first_end = {}

    def num_learned_tokens(self) -> int:
        """Keep nothing between requests."""
        return 0

    def num_bytes(self) -> int:
        """Keep nothing between requests."""
        return 0

    def _append(self, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            self._token_ids.append(int(token))
            end = len(self._token_ids)
            for match_len in range(1, min(MAX_MATCH_LEN, end) + 1):
                self._first_end.setdefault(tuple(self._token_ids[-match_len:]), end)
