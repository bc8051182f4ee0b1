"""Who runs: sequences get a slot and pages, give them back, wait, and go on.

A sequence comes in when there are pages for its prompt. Where pages run out later, the youngest
one gives its pages back and waits. It is computed again from its tokens, which cannot change its
words where rows have the same bits whenever they are computed. Where they have not, each sequence
gets all pages that it may ever need before it starts, and keeps them.
"""

import time
from collections.abc import Iterator

from verifier.cache.prefix_cache import PrefixCache
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.scheduler import Scheduler
from verifier.engine.sequence import NO_SLOT, Sequence
from verifier.engine.step import Work
from verifier.model.model import TargetModel


class Admission:
    """Gives out the slots and pages of a model."""

    def __init__(
        self,
        model: TargetModel,
        scheduler: Scheduler[Sequence],
        config: VerifierConfig,
        counters: Counters,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._prefixes = PrefixCache(model.slots)
        self._counters = counters
        self._max_unread = config.max_unread_tokens
        self._draft_rows = 1 + config.max_nodes

    def admit(self) -> Iterator[Sequence]:
        """Let sequences in while there is room; yield those that never ran before.

        Those who wait get what clients hold that do not read. Its words stay the same.
        """
        for sequence in self._scheduler.parked:
            if not self.is_paused(sequence):
                self._scheduler.resume(sequence)
        yield from self._let_in()
        paused = [s for s in self._scheduler.running if self.is_paused(s)]
        while paused and self._model.bitwise and self._scheduler.num_waiting:
            self._park(paused.pop(0))
            yield from self._let_in()

    def ready(self) -> list[Sequence]:
        """The running sequences but those that wait for rows of another one or for their client."""
        held = self._prefixes.catch_up()
        running = self._scheduler.running
        for sequence in running:
            if not sequence.num_output:
                sequence.num_reused = held.get(sequence.slot, sequence.num_reused)
        return [s for s in running if self.may_run(s) and not self._prefixes.is_waiting(s.slot)]

    def with_pages(self, works: list[Work]) -> list[Work]:
        """The works that have pages for their rows, the oldest sequences first.

        Where too few are left, the youngest sequences give theirs back, and those first that wait
        for their clients.
        """
        for work in sorted(works, key=lambda w: w.sequence.clock.admitted):
            while work.sequence.slot != NO_SLOT and not self._model.slots.reserve(
                work.segment.slot, work.segment.kv_span
            ):
                running = [s for s in self._scheduler.running if not s.is_over]
                self.preempt(max(running, key=lambda s: (self.is_paused(s), s.clock.admitted)))
        return [work for work in works if work.sequence.slot != NO_SLOT]

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's pages; it is the first of its account to get some again."""
        self._counters.num_preemptions += 1
        self._park(sequence)
        self._scheduler.resume(sequence)

    def release(self, sequence: Sequence) -> None:
        """Let go of a sequence that has ended, wherever it is."""
        self._scheduler.remove(sequence)
        if sequence.slot != NO_SLOT:
            self._prefixes.give(sequence.slot)

    def may_run(self, sequence: Sequence) -> bool:
        """Whether a running sequence has something to run."""
        return not (sequence.is_over or self.is_paused(sequence))

    def is_paused(self, sequence: Sequence) -> bool:
        """Whether its client has so much to read that it gets no more for now."""
        return not sequence.is_over and sequence.num_unread > self._max_unread

    def _let_in(self) -> Iterator[Sequence]:
        for sequence in self._scheduler.admit(self._has_room):
            sequence.slot, num_reused = self._prefixes.take(
                sequence.row_namespace, sequence.token_ids, reuses=not sequence.is_scored
            )
            # One that waits for another one's rows will share that one's pages.
            if not (self._model.bitwise and self._prefixes.is_waiting(sequence.slot)):
                self._model.slots.reserve(sequence.slot, self._num_rows(sequence))
            if not sequence.clock.admitted:
                sequence.num_reused = num_reused
                sequence.clock.admitted = time.perf_counter()
                yield sequence

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether there are pages for a sequence, and one for each that runs, since all grow."""
        running = self._scheduler.running
        return not running or self._prefixes.has_room(
            sequence.row_namespace, sequence.token_ids, self._num_rows(sequence), len(running)
        )

    def _num_rows(self, sequence: Sequence) -> int:
        """Rows for which a sequence gets pages at once."""
        if self._model.bitwise:
            return len(sequence.token_ids) + 1
        return sequence.num_prompt + sequence.request.stopping.max_tokens + self._draft_rows

    def _park(self, sequence: Sequence) -> None:
        self._prefixes.give(sequence.slot)
        self._scheduler.park(sequence)
        sequence.park()
