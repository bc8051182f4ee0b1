"""The trees of one draft for all sequences, as the verifier knows trees, each made when it is taken."""

from dataclasses import dataclass

from drafter.drafting.propose import Drafted
from verifier.speculation.tree import EMPTY_TREE, DraftTree


@dataclass(slots=True)
class Forest:
    """Trees by sequence; each is given out once."""

    token_ids: list[list[int]]
    parents: list[list[int]]
    sources: list[list[int]]
    probabilities: list[list[float]]
    places: dict[int, tuple[int, int]]  # by sequence, its index above and its number of nodes

    @classmethod
    def empty(cls) -> "Forest":
        """No trees."""
        return cls([], [], [], [], {})

    @classmethod
    def of(cls, sequence_ids: list[int], drafted: Drafted) -> "Forest":
        """The trees drafted for these sequences."""
        nodes = drafted.nodes.swapaxes(0, 1).tolist()
        counts = enumerate(drafted.counts)
        places = dict(zip(sequence_ids, counts, strict=True))
        return cls(*nodes, drafted.chances.tolist(), places)

    def refuse_from(self, vocabulary_size: int) -> int:
        """Drop trees with ids from `vocabulary_size` on; return how many these were."""
        bad = [
            sequence_id
            for sequence_id, (index, count) in self.places.items()
            if count and max(self.token_ids[index][:count]) >= vocabulary_size
        ]
        for sequence_id in bad:
            del self.places[sequence_id]
        return len(bad)

    def take(self, sequence_id: int) -> DraftTree:
        """Take a sequence's tree; empty where there is none."""
        index, count = self.places.pop(sequence_id, (0, 0))
        if not count:
            return EMPTY_TREE
        return DraftTree(
            tuple(self.token_ids[index][:count]),
            tuple(self.parents[index][:count]),
            tuple(self.probabilities[index][:count]),
            tuple(self.sources[index][:count]),
        )
