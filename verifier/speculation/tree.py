"""A draft tree: flat nodes in falling order of probability, so that every prefix is itself a tree.

A tree comes from another process and is hostile until `checked_tree` has seen it. `accept` walks
it: *choose, then look*. At each node the target's own token is chosen first; then we see whether
the tree has that child. So the emitted tokens are the target's, whatever was drafted, and one
choice is made per token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from operator import le, lt


class InvalidTree(ValueError):
    """A draft that is not a tree over this vocabulary."""


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class DraftTree:
    """`parents[i] < i` is node i's parent, -1 the root: the last committed token."""

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    probabilities: tuple[float, ...]  # of lying on the accepted path, falling
    sources: tuple[int, ...] = ()  # where each node's evidence came from; may be empty
    is_own: bool = False  # made or changed by the verifier: no feedback for the drafter

    def __len__(self) -> int:
        return len(self.token_ids)


EMPTY_TREE = DraftTree((), (), ())


def checked_tree(
    token_ids: Sequence[int],
    parents: Sequence[int],
    probabilities: Sequence[float],
    *,
    sources: Sequence[int] = (),
    vocabulary_size: int,
    max_nodes: int,
) -> DraftTree:
    """Return the tree, or raise InvalidTree naming the first thing that is wrong with it."""
    num_nodes = len(token_ids)
    if num_nodes > max_nodes:
        raise InvalidTree(f"{num_nodes} nodes, {max_nodes} were asked for")
    if not num_nodes == len(parents) == len(probabilities) or len(sources) not in (0, num_nodes):
        raise InvalidTree(
            f"{num_nodes} token_ids, {len(parents)} parents, {len(probabilities)} probabilities, "
            f"{len(sources)} sources"
        )
    tree = DraftTree(tuple(token_ids), tuple(parents), tuple(probabilities), tuple(sources))
    if num_nodes:
        _check_nodes(tree, vocabulary_size)
    return tree


def _check_nodes(tree: DraftTree, vocabulary_size: int) -> None:
    # Eight trees come between two steps: a sound one is read by loops that are not in Python.
    if not 0 <= min(tree.token_ids) <= max(tree.token_ids) < vocabulary_size:
        i = next(i for i, id in enumerate(tree.token_ids) if not 0 <= id < vocabulary_size)
        bad = tree.token_ids[i]
        raise InvalidTree(f"token_ids[{i}] = {bad} is outside 0..{vocabulary_size - 1}")
    if min(tree.parents) < -1 or not all(map(lt, tree.parents, count())):
        i = next(i for i, parent in enumerate(tree.parents) if not -1 <= parent < i)
        raise InvalidTree(f"parents[{i}] = {tree.parents[i]} is not an earlier node or -1")
    if len(set(zip(tree.parents, tree.token_ids, strict=True))) != len(tree):
        raise InvalidTree("two siblings hold the same token")
    limits = (1.0, *tree.probabilities)
    # Every comparison with a NaN is false.
    if not (all(map(le, tree.probabilities, limits)) and tree.probabilities[-1] >= 0.0):
        _check_probabilities(tree.probabilities)


def _check_probabilities(probabilities: Sequence[float]) -> None:
    last = 1.0
    for i, probability in enumerate(probabilities):
        # Rounding may lift a node a little above the one before it.
        if not 0.0 <= probability <= last + 1e-6:
            raise InvalidTree(f"probabilities[{i}] = {probability} is not in falling order in 0..1")
        last = probability


def chain(token_ids: Sequence[int]) -> DraftTree:
    """A tree without branches, whose nodes are sure."""
    count = len(token_ids)
    return DraftTree(tuple(token_ids), tuple(range(-1, count - 1)), (1.0,) * count)


def depths(parents: Sequence[int]) -> list[int]:
    """Distance of each node from the root; children of the root have 1."""
    result: list[int] = []
    for parent in parents:
        result.append(1 if parent < 0 else result[parent] + 1)
    return result


def prefix(tree: DraftTree, num_nodes: int) -> DraftTree:
    """The first `num_nodes` nodes."""
    return tree if num_nodes >= len(tree) else select(tree, range(num_nodes))


def limit_depth(tree: DraftTree, max_depth: int) -> DraftTree:
    """The nodes at most `max_depth` below the root."""
    if len(tree) <= max_depth:  # even if it were a chain
        return tree
    kept = [i for i, depth in enumerate(depths(tree.parents)) if depth <= max_depth]
    return tree if len(kept) == len(tree) else select(tree, kept)


def best_chain(tree: DraftTree, max_nodes: int) -> DraftTree:
    """The path that takes the most probable child at every node."""
    path: list[int] = []
    for i, parent in enumerate(tree.parents):
        # Siblings come in falling order: the first child seen of the path's end is the best one.
        if len(path) < max_nodes and parent == (path[-1] if path else -1):
            path.append(i)
    return select(tree, path)


def reroot(tree: DraftTree, token_ids: Sequence[int]) -> DraftTree:
    """The subtree below the path `token_ids`, or the empty tree where the tree lacks that path."""
    children = child_index(tree)
    node = -1
    for token_id in token_ids:
        child = children.get((node, token_id))
        if child is None:
            return EMPTY_TREE
        node = child
    if node < 0:
        return tree
    kept = [node]
    for i in range(node + 1, len(tree)):
        if tree.parents[i] in kept:
            kept.append(i)
    scale = max(tree.probabilities[node], 1e-9)
    subtree = select(tree, kept[1:], root=node)
    scaled = tuple(min(1.0, p / scale) for p in subtree.probabilities)
    return DraftTree(subtree.token_ids, subtree.parents, scaled, subtree.sources)


def child_index(tree: DraftTree) -> dict[tuple[int, int], int]:
    """Map (parent, token id) to the node."""
    return dict(zip(zip(tree.parents, tree.token_ids, strict=True), count(), strict=False))


def select(tree: DraftTree, nodes: Sequence[int], root: int = -1) -> DraftTree:
    """The tree of these nodes, in order; each one's parent must be among them or `root`."""
    index = {node: i for i, node in enumerate(nodes)} | {root: -1}
    return DraftTree(
        tuple(tree.token_ids[i] for i in nodes),
        tuple(index[tree.parents[i]] for i in nodes),
        tuple(tree.probabilities[i] for i in nodes),
        tuple(tree.sources[i] for i in nodes) if tree.sources else (),
        tree.is_own,
    )


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Accepted:
    """The tokens of the nodes of `path`, then the next token; nothing where none can be chosen."""

    token_ids: list[int]
    path: list[int]  # accepted nodes of the tree, from the root down

    @property
    def rows(self) -> list[int]:
        """The rows after which the tokens were chosen: row 0 is the root's, row 1 + n node n's."""
        return [0, *(node + 1 for node in self.path)]


def accept(tree: DraftTree, choose: Callable[[int], int | None]) -> Accepted:
    """Walk the tree by `choose(row)`, the target's token after row 0 (the root) or row 1 + node.

    `choose` is called once per emitted token, in order; where it returns None the walk ends.
    """
    children = child_index(tree)
    token_ids: list[int] = []
    path: list[int] = []
    node: int | None = -1
    while node is not None and (token_id := choose(node + 1)) is not None:
        token_ids.append(token_id)
        node = children.get((node, token_id))
        if node is not None:
            path.append(node)
    return Accepted(token_ids, path)
