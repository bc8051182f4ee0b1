"""Acceptance: *choose, then look*.

At each node the target's own token is chosen first; then we see whether the tree has that child.
So the emitted tokens are the target's, whatever was drafted, and one choice is made per token.
"""

from collections.abc import Callable
from dataclasses import dataclass

from verifier.tree import DraftTree, child_index


@dataclass(frozen=True, slots=True)
class Accepted:
    """`token_ids[:-1]` are the nodes of `path`; the last one is the next token."""

    token_ids: tuple[int, ...]
    path: tuple[int, ...]  # accepted nodes of the tree, from the root down


def accept(tree: DraftTree, choose: Callable[[int], int]) -> Accepted:
    """Walk the tree by `choose(row)`, the target's token after row 0 (the root) or row 1 + node.

    `choose` is called once per emitted token, in order.
    """
    children = child_index(tree)
    token_ids: list[int] = []
    path: list[int] = []
    node: int | None = -1
    while node is not None:
        token_ids.append(choose(node + 1))
        node = children.get((node, token_ids[-1]))
        if node is not None:
            path.append(node)
    return Accepted(tuple(token_ids), tuple(path))
