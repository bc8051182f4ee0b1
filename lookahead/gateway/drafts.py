"""How a step went, for display: which tokens were drafted, from where, in which tree."""

from typing import Any

from lookahead.responses import SOURCES
from protos import verifier_pb2 as pb


def step(tokens: pb.Tokens) -> dict[str, Any]:
    """Return the `lookahead` field of a chunk, for requests with `draft_trees`."""
    return {
        "first_index": tokens.first_index,
        "token_ids": list(tokens.token_ids),
        "num_drafted": tokens.num_drafted,
        "drafted_text_len": tokens.drafted_text_len,
        "draft_sources": _sources(tokens.draft_sources),
        "draft_tree": _tree(tokens.draft_tree) if tokens.HasField("draft_tree") else None,
    }


def _tree(tree: pb.DraftTree) -> dict[str, Any]:
    return {
        "token_ids": list(tree.token_ids),
        "parents": list(tree.parents),
        "probabilities": [round(probability, 4) for probability in tree.probabilities],
        "sources": _sources(tree.sources),
        "texts": list(tree.texts),
        "accepted": list(tree.accepted),
    }


def _sources(sources: Any) -> list[str]:  # a repeated enum field, which has no public type
    return [SOURCES.get(source, "unknown") for source in sources]
