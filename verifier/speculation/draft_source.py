"""Where drafts come from, as an engine sees it: a drafter elsewhere, or a replica of its memory."""

from collections.abc import Sequence
from typing import Protocol

from verifier.request import Speculation
from verifier.speculation.tree import DraftTree

EMBEDDED = "embedded"  # in place of addresses: a replica in this process


class DraftSource(Protocol):
    """Drafts for all live sequences of one engine; lives on its event loop, and never raises."""

    num_replies: int
    num_deadline_misses: int
    num_invalid: int

    @property
    def is_connected(self) -> bool:
        """Whether drafts can come, as far as is known."""
        ...

    def start(self) -> None:
        """Connect in the background."""
        ...

    async def stop(self) -> None:
        """Let go of everything."""
        ...

    def open(
        self,
        sequence_id: int,
        token_ids: list[int],
        num_prompt: int,
        speculation: Speculation,
        traceparent: str = "",
    ) -> None:
        """Follow a sequence; `token_ids` grows as tokens are emitted, and is read again."""
        ...

    def close(self, sequence_id: int, *, learn: bool) -> None:
        """Stop following a sequence."""
        ...

    def observe(
        self, sequence_id: int, *, num_verified: int, successors: Sequence[Sequence[int]]
    ) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        ...

    def request(self, wanted: dict[int, int]) -> None:
        """Ask for trees of at most so many nodes, by sequence."""
        ...

    async def wait(self, deadline_s: float) -> None:
        """Wait for what was asked for, at most so long."""
        ...

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the newest tree, for what stands in `token_ids` now."""
        ...
