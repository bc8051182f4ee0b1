"""The Lookahead paper's trie with hierarchical branches, reimplemented from its description.

Method: "Lookahead: An Inference Acceleration Framework for Large Language Model with Lossless
Generation Accuracy", arXiv 2312.12728. One tree per first token, windows of `BRANCH_LEN` tokens
below it, separate counters for this prompt and for all outputs, a match of two tokens or else one.
Three defects of the released code are mended, so that the method is judged and not its slips: an
overfull match keeps its prompt branches, token id 0 is a token like any other, and a prompt is
indexed beyond its first end-of-text token.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.replay.draft import Draft

BRANCH_LEN = 12
MAX_MATCH_LEN = 2
# Published settings: a tree may keep 16 output nodes per drafted node before it is squeezed.
NODES_PER_DRAFTED = 16
PROMPT_WEIGHT = 0.9999
NODE_BYTES = 490


@dataclass(slots=True)
class Node:
    """Counts of one window prefix: in all outputs, and in the prompt being served."""

    output_count: float = 0.0
    prompt_count: float = 0.0
    children: dict[int, "Node"] = field(default_factory=dict)

    def score(self) -> float:
        """Rank as published: prompt hits first, output hits break ties."""
        return PROMPT_WEIGHT * self.prompt_count + (1 - PROMPT_WEIGHT) * self.output_count


class LookaheadPaper:
    """A forest keyed by the first token of every stored window."""

    def __init__(self, decoding_len: int = 64) -> None:
        self._max_nodes = NODES_PER_DRAFTED * decoding_len
        self._trees: dict[int, Node] = {}
        self._context: list[int] = []
        self._unstored: list[int] = []
        self._prompt_nodes: list[Node] = []
        self._touched: set[int] = set()
        self._num_tokens = 0

    def open(self, token_ids: Sequence[int]) -> None:
        """Index the prompt, without its first token, under the prompt counter."""
        self._context = [int(token) for token in token_ids]
        self._unstored = []
        self._put_prompt(self._context[1:])

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Stream output in: a window is stored once it is full, so the newest tokens lag."""
        self._context.extend(token_ids)
        self._unstored.extend(token_ids)
        while len(self._unstored) > BRANCH_LEN:
            self._put_output(self._unstored[: BRANCH_LEN + 1])
            del self._unstored[0]

    def propose(self, max_nodes: int) -> Draft:
        """Take the two-token match, or the one-token match where that one is too small."""
        best = Draft([], [])
        for match_len in range(MAX_MATCH_LEN, 0, -1):
            node = self._match(self._context[-match_len:])
            best = _hierarchical(node, max_nodes) if node is not None else Draft([], [])
            if len(best.token_ids) >= BRANCH_LEN:
                break
        return best

    def close(self) -> None:
        """Store the tail, clear the prompt counters, squeeze the trees that grew too big."""
        for start in range(len(self._unstored)):
            self._put_output(self._unstored[start:])
        self._num_tokens += len(self._context)
        for node in self._prompt_nodes:
            node.prompt_count = 0.0
        self._prompt_nodes = []
        for first in self._touched:
            if _count(self._trees[first]) > self._max_nodes:
                _squeeze(self._trees[first])
        self._touched = set()

    def num_learned_tokens(self) -> int:
        """Count the tokens of all closed sequences."""
        return self._num_tokens

    def num_bytes(self) -> int:
        """Estimate memory at the measured size of one such node in CPython."""
        return NODE_BYTES * sum(_count(tree) for tree in self._trees.values())

    def _match(self, suffix: Sequence[int]) -> Node | None:
        node = self._trees.get(suffix[0])
        for token in suffix[1:]:
            node = node.children.get(token) if node is not None else None
        return node

    def _put_prompt(self, token_ids: list[int]) -> None:
        for start in range(len(token_ids)):
            for node in self._path(token_ids[start : start + BRANCH_LEN + 1]):
                node.prompt_count += 1.0
                self._prompt_nodes.append(node)

    def _put_output(self, window: list[int]) -> None:
        for node in self._path(window):
            node.output_count += 1.0

    def _path(self, window: list[int]) -> list[Node]:
        self._touched.add(window[0])
        node = self._trees.setdefault(window[0], Node())
        path = []
        for token in window[1:]:
            node = node.children.setdefault(token, Node())
            path.append(node)
        return path


def _hierarchical(match: Node, max_nodes: int) -> Draft:
    """Fill depth first, children by score, only with nodes at or above the budget's threshold."""
    scores = heapq.nlargest(max_nodes, _scores(match))
    threshold = scores[-1] if scores else 0.0
    token_ids: list[int] = []
    parents: list[int] = []
    stack = [(token, child, -1) for token, child in _worthy(match, threshold)]
    while stack and len(token_ids) < max_nodes:
        token, node, parent = stack.pop()
        token_ids.append(token)
        parents.append(parent)
        at = len(token_ids) - 1
        stack.extend((token, child, at) for token, child in _worthy(node, threshold))
    return Draft(token_ids, parents)


def _worthy(node: Node, threshold: float) -> list[tuple[int, Node]]:
    """List the live children at or above the threshold, best last: a stack pops it first."""
    edges = [edge for edge in node.children.items() if 0 < edge[1].score() >= threshold]
    return sorted(edges, key=lambda edge: edge[1].score())


def _scores(match: Node) -> Iterator[float]:
    stack = list(match.children.values())
    while stack:
        node = stack.pop()
        if node.score() > 0:
            yield node.score()
            stack.extend(node.children.values())


def _count(tree: Node) -> int:
    """Count the nodes below the root of one tree."""
    return sum(1 + _count(child) for child in tree.children.values())


def _squeeze(tree: Node) -> None:
    """Drop what was seen at most once, with all below it, and halve the rest."""
    tree.children = {
        token: child for token, child in tree.children.items() if child.output_count > 1
    }
    for child in tree.children.values():
        child.output_count /= 2
        _squeeze(child)
