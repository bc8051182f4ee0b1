"""The draft sources a replay compares: ours, and small remakes of published methods."""

from collections.abc import Sequence

from bench.replay.draft import Draft
from bench.replay.lookahead_paper import LookaheadPaper
from bench.replay.peers import peers
from bench.replay.player import Factory
from bench.replay.prompt_lookup import PromptLookup
from drafter.drafting.sessions import DraftSessions
from drafter.kernels.dispatch import dispatch

NAMESPACE = "replay"


class Ours:
    """This project's drafter, called in process."""

    def __init__(self) -> None:
        dispatch.compile()  # once per process, and not on the first request's time
        self._sessions = DraftSessions()
        self._sequence_id = 0

    def open(self, token_ids: Sequence[int]) -> None:
        """Open the next sequence."""
        self._sequence_id += 1
        self._sessions.open(self._sequence_id, space=NAMESPACE, token_ids=token_ids)

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Tell the drafter what was emitted and how much of its tree was verified."""
        self._sessions.observe(self._sequence_id, token_ids, num_verified=num_verified)

    def propose(self, max_nodes: int) -> Draft:
        """Ask for a tree."""
        tree = self._sessions.propose(self._sequence_id, max_nodes)
        return Draft(tree.token_ids, tree.parents, tree.probabilities)

    def close(self) -> None:
        """Close the sequence; prompt and output are learned."""
        self._sessions.close(self._sequence_id)

    def num_learned_tokens(self) -> int:
        """Count what the namespace holds."""
        return self._sessions.stats().num_tokens

    def num_bytes(self) -> int:
        """Measure what the namespace holds."""
        return self._sessions.stats().num_bytes


class NoDrafts:
    """Plain decoding: never drafts."""

    def open(self, token_ids: Sequence[int]) -> None:
        """Forget the prompt."""

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Forget the output."""

    def propose(self, max_nodes: int) -> Draft:
        """Draft nothing."""
        return Draft([], [])

    def close(self) -> None:
        """Learn nothing."""

    def num_learned_tokens(self) -> int:
        """Hold nothing."""
        return 0

    def num_bytes(self) -> int:
        """Hold nothing."""
        return 0


SOURCES: dict[str, Factory] = {
    "ours": Ours,
    "prompt-lookup": PromptLookup,
    "lookahead-paper": LookaheadPaper,
    "none": NoDrafts,
    **peers(),
}


def source_names() -> list[str]:
    """List what can be replayed here."""
    return list(SOURCES)


def factory(name: str) -> Factory:
    """Find a source by name."""
    if name not in SOURCES:
        raise ValueError(f"source: {name!r} is none of {source_names()}")
    return SOURCES[name]
