"""One sequence as the drafter knows it: what it has been told, and the newest tree it sent."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protos import drafter_pb2 as pb
from verifier.request import Speculation
from verifier.speculation.draft_source import Successors
from verifier.speculation.tree import EMPTY_TREE, DraftTree, InvalidTree, checked_tree, reroot


@dataclass(slots=True)
class RemoteSequence:
    """What was emitted since the last message waits here for the next one."""

    token_ids: list[int]  # prompt and output, shared with the sequence, read only
    num_prompt: int
    speculation: Speculation
    traceparent: str = ""
    is_open: bool = False
    _num_sent: int = 0  # leading token_ids that the drafter knows
    _num_verified: int = 0
    _successors: list[NDArray[np.int32]] = field(default_factory=list)
    _tree: DraftTree = field(default_factory=lambda: EMPTY_TREE)
    _tree_len: int = 0  # len(token_ids) when the tree was drafted

    @property
    def has_news(self) -> bool:
        """Whether tokens were emitted that the drafter does not know."""
        return self._num_sent < len(self.token_ids)

    @property
    def has_taken_back(self) -> bool:
        """Whether the drafter was told tokens that it is not to learn."""
        return self._num_sent > len(self.token_ids)

    def observe(self, num_verified: int, successors: Successors) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        # Feedback fits the tree the drafter remembers only if nothing was emitted in between.
        is_fresh = not self._successors and self._tree_len == self._num_sent
        self._num_verified = num_verified if is_fresh else 0
        if successors is not None:
            self._successors.append(successors)

    def take_tree(self) -> DraftTree:
        """The newest tree, re-rooted under what was emitted since it was drafted."""
        tree, self._tree = self._tree, EMPTY_TREE
        return reroot(tree, self.token_ids[self._tree_len :]) if len(tree) else EMPTY_TREE

    def keep(self, draft: pb.Draft, vocabulary_size: int) -> None:
        """Keep a tree for the next step, or none and raise InvalidTree."""
        self._tree = EMPTY_TREE
        if not self.num_prompt <= draft.committed_len <= len(self.token_ids):
            raise InvalidTree(f"committed_len = {draft.committed_len} is not a length it had")
        # A slice is a list, which is read twice as fast as a message's field.
        self._tree = checked_tree(
            draft.token_ids[:],
            draft.parents[:],
            draft.probabilities[:],
            sources=draft.sources[:],
            vocabulary_size=vocabulary_size,
            max_nodes=self.speculation.max_nodes,
        )
        self._tree_len = draft.committed_len

    def opening(self, sequence_id: int, vocabulary: str, max_nodes: int) -> pb.Open:
        """Tell a drafter all there is, and ask for a tree of at most so many nodes."""
        self.is_open = True
        self._note_told()  # feedback too: this drafter never sent the tree that it is about
        return pb.Open(
            sequence_id=sequence_id,
            vocabulary=vocabulary,
            namespace=self.speculation.namespace,
            token_ids=self.token_ids,
            num_prompt_tokens=self.num_prompt,
            prediction=self.speculation.prediction,
            learn=pb.Learn.Value(f"LEARN_{self.speculation.learn.name}"),
            max_nodes=max_nodes,
            traceparent=self.traceparent,
        )

    def observation(self, sequence_id: int, max_nodes: int) -> pb.Observe:
        """Tell the drafter the news, and ask for a tree of at most so many nodes."""
        token_ids = self.token_ids[self._num_sent :]
        message = pb.Observe(
            sequence_id=sequence_id,
            token_ids=token_ids,
            num_verified=self._num_verified,
            max_nodes=max_nodes,
        )
        if token_ids and sum(map(len, self._successors)) == len(token_ids):
            rows = np.concatenate(self._successors)
            message.successors.extend(rows.ravel().tolist())
            message.successors_per_token = rows.shape[1]
        self._note_told()
        return message

    def _note_told(self) -> None:
        """Nothing waits for the next message."""
        self._num_sent = len(self.token_ids)
        self._num_verified, self._successors = 0, []
