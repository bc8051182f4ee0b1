"""The trees of one draft for all sequences, as the verifier knows trees, each made when it is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from drafter.drafting.turns import Drafted, Turn
from verifier.speculation.tree import EMPTY_TREE, DraftTree


@dataclass(slots=True)
class Forest:
    """Trees by sequence; each is given out once."""

    # By place: token ids, parents and sources, and beside them probabilities; all with equal room.
    nodes: list[list[list[int]]] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)  # by sequence, with its nodes

    @classmethod
    def of(cls, turns: Sequence[Turn], drafted: Drafted) -> "Forest":
        """The trees drafted in these turns."""
        places = {
            turn.sequence_id: (place, count)
            for place, (turn, count) in enumerate(zip(turns, drafted.counts, strict=True))
            if count
        }
        return cls(drafted.nodes.tolist(), drafted.chances.tolist(), places)

    def take(self, sequence_id: int) -> DraftTree:
        """Take a sequence's tree; empty where there is none."""
        place, count = self.places.pop(sequence_id, (0, 0))
        if not count:
            return EMPTY_TREE
        token_ids, parents, sources = self.nodes[place]
        chances = self.probabilities[place]
        return DraftTree(
            tuple(token_ids[:count]),
            tuple(parents[:count]),
            tuple(chances[:count]),
            tuple(sources[:count]),
        )
