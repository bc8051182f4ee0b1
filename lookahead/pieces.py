"""Parts the text of a step by where its tokens came from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from lookahead.results import Source, TokenRun


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one source; None: the model's own."""

    text: str
    source: Source | None


def split(run: TokenRun) -> list[Piece]:
    """Return the parts of a run in order; together they are its text.

    Which characters a token brought is told by the run's draft tree. Without one, all drafted
    text goes to the first token's source.
    """
    groups = groupby(_labelled(run), key=lambda piece: piece.source)
    joined = [Piece("".join(p.text for p in group), source) for source, group in groups]
    return [piece for piece in joined if piece.text]


def _labelled(run: TokenRun) -> Iterator[Piece]:
    rest = run.drafted_text
    tree = run.draft_tree
    texts = [tree.texts[node] for node in tree.accepted] if tree is not None else []
    sources = run.sources[: run.num_drafted] or ("unknown",)
    for source, text in zip(sources[:-1], texts, strict=False):
        yield Piece(rest[: len(text)], source)
        rest = rest[len(text) :]
    # What a token lacks of a character, or a stop string holds back, comes with a later one.
    yield Piece(rest, sources[-1] if texts else sources[0])
    yield Piece(run.own_text, None)
