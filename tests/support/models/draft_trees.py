"""Any draft tree, for properties; and what a tree means."""

from hypothesis import strategies as st

from verifier.speculation.tree import DraftTree


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    """Any tree of up to 20 nodes over four tokens."""
    edges: dict[tuple[int, int], None] = {}
    for _ in range(draw(st.integers(0, 20))):
        edges.setdefault((draw(st.integers(-1, len(edges) - 1)), draw(st.integers(0, 3))))
    probabilities = sorted((draw(st.floats(0, 1)) for _ in edges), reverse=True)
    return DraftTree(
        tuple(token for _, token in edges),
        tuple(parent for parent, _ in edges),
        tuple(probabilities),
        tuple(1 for _ in edges),
    )


def paths(tree: DraftTree) -> set[tuple[int, ...]]:
    """Every path from the root, as token ids: what a tree means."""
    result: list[tuple[int, ...]] = []
    for token_id, parent in zip(tree.token_ids, tree.parents, strict=True):
        result.append((*(result[parent] if parent >= 0 else ()), token_id))
    return set(result)
