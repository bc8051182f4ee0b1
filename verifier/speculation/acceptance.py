"""Acceptance: *choose, then look*.

At each node the target's own token is chosen first; then we see whether the tree has that child.
So the emitted tokens are the target's, whatever was drafted, and one choice is made per token.
"""

from collections.abc import Callable
from dataclasses import dataclass

from verifier.speculation.tree import DraftTree, child_index


@dataclass(frozen=True, slots=True)
class Accepted:
    """The nodes of `path`, then the next token, unless the walk was broken off before it."""

    token_ids: tuple[int, ...]
    path: tuple[int, ...]  # accepted nodes of the tree, from the root down

    @property
    def is_broken_off(self) -> bool:
        """The target's choice after the last node is still to be made."""
        return len(self.token_ids) == len(self.path)


def accept(tree: DraftTree, choose: Callable[[int], int | None]) -> Accepted:
    """Walk the tree by `choose(row)`, the target's token after row 0 (the root) or row 1 + node.

    `choose` is called once per emitted token, in order; None breaks the walk off.
    """
    children = child_index(tree)
    token_ids: list[int] = []
    path: list[int] = []
    node: int | None = -1
    while node is not None:
        token_id = choose(node + 1)
        if token_id is None:
            break
        token_ids.append(token_id)
        node = children.get((node, token_id))
        if node is not None:
            path.append(node)
    return Accepted(tuple(token_ids), tuple(path))
