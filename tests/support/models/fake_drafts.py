"""Draft sources for tests: the surface of DraftClient, with trees made on the spot."""

import random
from collections.abc import Callable, Sequence

from verifier.request import Speculation
from verifier.speculation.draft_source import Successors
from verifier.speculation.tree import DraftTree

Drafter = Callable[[int, list[int], int], DraftTree]  # sequence id, tokens so far, max nodes


class FakeDrafts:
    """Every tree comes at once from a function of the tokens so far."""

    is_connected = True
    has_news = False
    num_replies = num_deadline_misses = num_invalid = 0

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._tokens: dict[int, list[int]] = {}
        self._wanted: dict[int, int] = {}
        self.closed: list[tuple[int, bool]] = []

    def start(self, wake: Callable[[], object] = lambda: None) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to close."""

    def open(
        self,
        sequence_id: int,
        token_ids: list[int],
        num_prompt: int,
        speculation: Speculation,
        traceparent: str = "",
    ) -> None:
        self._tokens[sequence_id] = token_ids

    def close(self, sequence_id: int, *, learn: bool) -> None:
        self._tokens.pop(sequence_id, None)
        self.closed.append((sequence_id, learn))

    def tree(self, sequence_id: int) -> DraftTree:
        tokens = self._tokens[sequence_id]
        return self._drafter(sequence_id, tokens, self._wanted.get(sequence_id, 0))

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Fakes do not learn."""

    def request(self, wanted: dict[int, int]) -> None:
        self._wanted = wanted

    def wait(self, deadline_s: float) -> None:
        """Trees are always there."""


def random_tree(rng: random.Random, max_nodes: int, vocabulary: Sequence[int]) -> DraftTree:
    """A random tree without duplicate siblings, as wide as chance makes it."""
    edges: dict[tuple[int, int], None] = {}
    for _ in range(max_nodes):
        edges.setdefault((rng.randrange(-1, len(edges)), rng.choice(list(vocabulary))))
    tokens = tuple(token for _, token in edges)
    return DraftTree(tokens, tuple(parent for parent, _ in edges), (1.0,) * len(edges))


def path_tree(path: Sequence[int], decoys: Sequence[int] = ()) -> DraftTree:
    """A chain, with a wrong sibling before each of its nodes, so that the path has gaps."""
    tokens: list[int] = []
    parents: list[int] = []
    last = -1
    for i, token in enumerate(path):
        if i < len(decoys) and decoys[i] != token:
            tokens.append(decoys[i])
            parents.append(last)
        tokens.append(token)
        parents.append(last)
        last = len(tokens) - 1
    return DraftTree(tuple(tokens), tuple(parents), (1.0,) * len(tokens))
