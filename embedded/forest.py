"""The trees drafted for all sequences, as the verifier knows trees: each made when it is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from drafter.drafting.turns import Drafted, Turn
from verifier.speculation.tree import EMPTY_TREE, DraftTree


@dataclass(slots=True)
class Forest:
    """Trees by sequence; each is given out once."""

    # Equal room for each: its tokens, parents and sources, and beside them its probabilities.
    nodes: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    space: int = 0
    places: dict[int, tuple[int, int]] = field(default_factory=dict)  # by sequence, with its nodes

    @classmethod
    def of(cls, turns: Sequence[Turn], drafted: Drafted) -> "Forest":
        """The trees drafted in these turns."""
        asked = (turn.sequence_id for turn in turns)
        places = dict(zip(asked, enumerate(drafted.counts), strict=True))
        nodes, chances = drafted.nodes, drafted.chances
        return cls(nodes.ravel().tolist(), chances.ravel().tolist(), chances.shape[1], places)

    def take(self, sequence_id: int) -> DraftTree:
        """Take a sequence's tree; empty where there is none."""
        place, count = self.places.pop(sequence_id, (0, 0))
        if not count:
            return EMPTY_TREE
        nodes, space, start = self.nodes, self.space, 3 * place * self.space
        return DraftTree(
            tuple(nodes[start : start + count]),
            tuple(nodes[start + space : start + space + count]),
            tuple(self.probabilities[place * space : place * space + count]),
            tuple(nodes[start + 2 * space : start + 2 * space + count]),
        )
