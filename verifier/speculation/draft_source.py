"""Where drafts come from, as an engine sees it: a drafter elsewhere, or a replica of its memory."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verifier.request import Speculation
from verifier.speculation.tree import DraftTree

EMBEDDED = "embedded"  # in place of addresses: a replica in this process

Successors = NDArray[np.int32] | None  # [tokens, ranks], the best first


class DraftSource(Protocol):
    """Drafts for all live sequences of one engine. Never raises.

    Started and stopped on the event loop; all between is called by the engine's thread.
    """

    num_replies: int
    num_deadline_misses: int
    num_invalid: int

    @property
    def is_connected(self) -> bool:
        """Whether drafts can come, as far as is known."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell though no tree is wanted: `request` tells it."""
        ...

    def start(self, wake: Callable[[], object]) -> None:
        """Connect in the background. `wake` is called when something came, in any thread."""
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
        """Stop following a sequence; what `token_ids` has lost since it was told is not learned."""
        ...

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        ...

    def request(self, wanted: dict[int, int]) -> None:
        """Tell what was noted, and ask for trees of at most so many nodes, by sequence."""
        ...

    def wait(self, deadline_s: float) -> None:
        """Wait for what was asked for, at most so long."""
        ...

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the newest tree, for what stands in `token_ids` now."""
        ...
