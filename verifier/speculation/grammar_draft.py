"""Drafts that a constraint itself implies: tokens that it forces, and few that it leaves to choose.

Where one token is allowed it is certain, whatever the model thinks; where some are, each gets an
equal share. So constrained outputs take several tokens a step without any drafter, and the
target's own choice still decides.
"""

import heapq
import itertools
from typing import Protocol

from rpc.contract import Source
from verifier.speculation.tree import DraftTree, child_index

MAX_CHOICES = 6  # more possible tokens say too little about the next one
MAX_STATES = 12  # places of the output that are looked at for one draft, 0.1 ms each
MIN_PROBABILITY = 0.1


class State(Protocol):
    """A place in a constrained output."""

    def choices(self, limit: int) -> list[int]:
        """Return the ids that may come next; none where the output is over or more than `limit`."""
        ...

    def after(self, token_id: int) -> "State":
        """Return the place after one more token; this one stays where it is."""
        ...


def grammar_draft(state: State, max_nodes: int, max_depth: int) -> DraftTree:
    """Return the tree below `state`, likeliest nodes first."""
    token_ids: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    order = itertools.count()
    # (-probability, order, parent node, depth, token); the states of nodes are made when wanted.
    heap: list[tuple[float, int, int, int, int]] = []
    states: dict[int, State] = {-1: state}

    def offer(node: int, depth: int, probability: float) -> None:
        """Offer what may follow a node."""
        found = states[node].choices(MAX_CHOICES) if depth < max_depth else []
        share = probability / max(len(found), 1)
        if share >= MIN_PROBABILITY:
            for token_id in found:
                heapq.heappush(heap, (-share, next(order), node, depth + 1, token_id))

    offer(-1, 0, 1.0)
    while heap and len(token_ids) < max_nodes:
        share, _, parent, depth, token_id = heapq.heappop(heap)
        node = len(token_ids)
        token_ids.append(token_id)
        parents.append(parent)
        probabilities.append(-share)
        if len(states) < MAX_STATES:
            states[node] = states[parent].after(token_id)
            offer(node, depth, -share)
    sources = (Source.CONSTRAINT,) * len(token_ids)
    return DraftTree(tuple(token_ids), tuple(parents), tuple(probabilities), sources, is_own=True)


def merged(certain: DraftTree, other: DraftTree) -> DraftTree:
    """Both trees' nodes, each path once; a node of both is as likely as the surer one says.

    Where the first tree knows all that may follow a node, nodes of the other beside it only cost.
    """
    known = child_index(certain)
    closed = set(certain.parents)
    places: dict[int, int | None] = {-1: -1}  # of the other tree's nodes in the first
    added: list[tuple[float, int, int, int]] = []
    sources = other.sources or (Source.UNKNOWN,) * len(other)
    boosts: dict[int, float] = {}
    for i, (token_id, parent) in enumerate(zip(other.token_ids, other.parents, strict=True)):
        above = places[parent]
        if above is None:
            places[i] = None
        elif above >= len(certain) or above not in closed:
            places[i] = len(certain) + len(added)
            added.append((other.probabilities[i], token_id, above, sources[i]))
        else:
            places[i] = place = known.get((above, token_id))
            if place is not None:
                boosts[place] = other.probabilities[i]
    return _sorted(certain, boosts, added)


def _sorted(
    certain: DraftTree, boosts: dict[int, float], added: list[tuple[float, int, int, int]]
) -> DraftTree:
    """One tree in falling order of probability, parents first."""
    nodes = [
        (max(p, boosts.get(i, 0.0)), certain.token_ids[i], certain.parents[i], Source.CONSTRAINT)
        for i, p in enumerate(certain.probabilities)
    ] + added
    capped: list[float] = []
    for probability, _, parent, _ in nodes:
        capped.append(probability if parent < 0 else min(probability, capped[parent]))
    order = sorted(range(len(nodes)), key=lambda i: -capped[i])  # stable: parents stay first
    index = {node: i for i, node in enumerate(order)} | {-1: -1}
    return DraftTree(
        tuple(nodes[i][1] for i in order),
        tuple(index[nodes[i][2]] for i in order),
        tuple(capped[i] for i in order),
        tuple(nodes[i][3] for i in order),
        is_own=True,
    )
