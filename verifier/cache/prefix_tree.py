"""What the kept pages hold, as a tree: a page's tokens, and below it the pages that went on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from verifier.cache.pages import PAGE, num_pages_of

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A page. Only a full one has others below it."""

    page: int
    token_ids: Tokens
    namespace: str
    parent: "_Node | None"
    children: dict[Tokens, "_Node"] = field(default_factory=dict)


class PrefixTree:
    """Finds the pages that a sequence can begin with. Namespaces share nothing."""

    def __init__(self) -> None:
        self._roots: dict[str, _Node] = {}
        self._nodes: dict[int, _Node] = {}  # by page

    def find(self, namespace: str, token_ids: Sequence[int]) -> tuple[list[int], int]:
        """The pages of the longest known beginning, and its length; of the last perhaps a part."""
        node, pages = self._roots.get(namespace), list[int]()
        while node is not None:
            start = PAGE * len(pages)
            child = node.children.get(tuple(token_ids[start : start + PAGE]))
            if child is None or len(child.token_ids) < PAGE:
                return _end(node, pages, token_ids[start : start + PAGE])
            pages.append(child.page)
            node = child
        return [], 0

    def add(self, namespace: str, token_ids: Sequence[int], table: Sequence[int]) -> list[int]:
        """Note what a sequence's pages hold; return the pages of its beginning that are known.

        Where another page holds the same, that one is returned instead. The last page may be
        shorter, and is not noted if another one begins with it.
        """
        root = node = self._roots.get(namespace) or _Node(-1, (), namespace, None)
        known = []
        for index in range(num_pages_of(len(token_ids))):
            page, run = table[index], tuple(token_ids[PAGE * index : PAGE * (index + 1)])
            child = node.children.get(run)
            if child is None:
                if len(run) < PAGE and any(other[: len(run)] == run for other in node.children):
                    break
                child = node.children[run] = self._nodes[page] = _Node(page, run, namespace, node)
            known.append(child.page)
            node = child
        if root.children:
            self._roots[namespace] = root
        return known

    def forget(self, page: int) -> None:
        """A page will hold something else."""
        node = self._nodes.pop(page)
        parent = node.parent
        assert parent is not None, "roots have no pages"
        del parent.children[node.token_ids]
        if parent.parent is None and not parent.children:
            del self._roots[node.namespace]


def _end(node: _Node, pages: list[int], rest: Sequence[int]) -> tuple[list[int], int]:
    """Add the page below a node that holds most of the rest's beginning."""
    best, best_page = 0, -1
    for child in node.children.values():
        if rest and child.token_ids[0] == rest[0]:
            length = num_shared(child.token_ids, rest)
            if length > best:
                best, best_page = length, child.page
    length = PAGE * len(pages) + best
    return ([*pages, best_page], length) if best else (pages, length)


STRIDE = 256  # tokens that are compared at once


def num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    length, start = min(len(first), len(second)), 0
    while start < length:
        end = min(start + STRIDE, length)
        if list(first[start:end]) != list(second[start:end]):
            return next(i for i in range(start, end) if first[i] != second[i])
        start = end
    return length
