"""Which sequences the drafter is asked about: those whose drafts were worth verifying of late.

On a CPU the drafter's work takes time from the model's, so a sequence whose drafts are no use is
asked about at every fourth and then at every eighth step only, all such sequences at the same
steps; what it emitted meanwhile goes with the next question. Policy only: no clocks, no tensors.
"""

from collections.abc import Iterable

# By the drafting steps of a sequence since a node of its drafts was verified: at which multiple
# of the engine's steps it is asked about.
EVERY_STEP_BELOW, RARELY_BELOW = 4, 32
RARELY, SELDOM = 4, 8


class DraftBackoff:
    """Counts, per live sequence, the drafting steps since a draft was of use."""

    def __init__(self) -> None:
        self._num_unused: dict[int, int] = {}
        self._step = 0

    def open(self, sequence_id: int) -> None:
        """Follow a sequence; nothing is known of its drafts yet."""
        self._num_unused[sequence_id] = 0

    def due(self, sequence_ids: Iterable[int]) -> list[int]:
        """Those to ask about after this step."""
        self._step += 1
        return [each for each in sequence_ids if not self._step % self._interval(each)]

    def note(self, sequence_id: int, *, was_useful: bool) -> None:
        """Whether a node of its draft was verified; of one that has just ended it says nothing."""
        if sequence_id in self._num_unused:
            self._num_unused[sequence_id] = 0 if was_useful else self._num_unused[sequence_id] + 1

    def forget(self, sequence_id: int) -> None:
        """Let go of a sequence that has ended."""
        self._num_unused.pop(sequence_id, None)

    def _interval(self, sequence_id: int) -> int:
        num_unused = self._num_unused[sequence_id]
        if num_unused < EVERY_STEP_BELOW:
            return 1
        return RARELY if num_unused < RARELY_BELOW else SELDOM
