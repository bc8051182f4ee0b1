"""Compares what drafting promised with what happened, and switches it off where it loses.

Two accounts, both without tensors. *Trust*, per namespace: accepted over promised tokens; the
budget sees the drafter's probabilities times this. *Balance*, per server: the time that drafting
saved or lost against plain steps, measured by a few plain steps in between, in units of a plain
step. Below a limit drafting goes off; plain steps refill the balance by a small share of their
own time, and at zero drafting is tried again. So the loss is bounded by that share, whatever the
drafter says and however wrong the step-time curve is.
"""

import logging
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LIMIT = 1.5  # plain steps' worth of time: what may be lost, and what can be put by
REFILL, MIN_REFILL = 0.01, 0.000625  # a plain step's share; halved at each probe
NUM_REFERENCES = 2  # plain steps per comparison; those of the one before count, too
FIRST_REFERENCES = 4  # at the start, when there are no earlier ones: two would be mostly noise
MIN_INTERVAL, MAX_INTERVAL = 16, 128  # drafting steps between comparisons
GAIN_MEMORY = 0.8  # what of the running gain stays at each comparison

# A new namespace starts as if so many tokens had been promised, and so many of them accepted. The
# budget picks the steps that promise most, and these tend to promise too much.
PRIOR, PRIOR_KEPT = 8.0, 6.0
MEMORY = 0.995  # what of the promises stays at each step that verifies some
IDLE_MEMORY = 0.9995  # and at each that verifies none, so that distrust fades
MAX_NAMESPACES = 1024


@dataclass(slots=True)
class _Period:
    """Drafting steps since the last comparison; times of plain steps in the curve's units."""

    num_steps: int = 0
    seconds: float = 0.0
    plain_units: float = 0.0  # what their tokens would have taken, one plain step each
    step_units: float = 0.0  # what as many plain steps would have taken


class Controller:
    """Says whether the next step may draft; told about every step that only decodes."""

    def __init__(self, plain_units: Callable[[int], float]) -> None:
        """`plain_units`: relative time of a plain step by its number of sequences."""
        self.is_on = True
        self.gain_ratio = 1.0  # (emitted tokens x plain step time) / time of drafting steps
        self.num_backoffs = 0
        self.num_probes = 0
        self.trust = Trust()
        self._plain_units = plain_units
        self._references: deque[float] = deque(maxlen=4 * NUM_REFERENCES)  # seconds per unit
        self._reference = 0.0  # their median
        self._num_new = 0  # references since the last comparison
        self._num_due = FIRST_REFERENCES
        self._interval = MIN_INTERVAL
        self._balance = LIMIT  # the first drafts come while the drafter still loads its kernels
        self._refill = REFILL
        self._period = _Period()
        self._saved = self._spent = 0.0  # seconds behind gain_ratio, fading

    @property
    def allows_drafts(self) -> bool:
        """False while drafting is off, and for the plain steps that it is compared with."""
        return self.is_on and not self._num_due

    def record(
        self, *, num_sequences: int, num_emitted: int, seconds: float, drafted: bool
    ) -> None:
        """Take note of a step: its whole time, waiting for drafts included."""
        units = self._plain_units(num_sequences)
        if drafted:
            self._record_drafting(units, num_emitted / num_sequences, seconds)
        else:
            self._record_plain(seconds / units)

    def record_saved(self, num_steps: float) -> None:
        """Take note of a drafting step that no plain one is like: the plain steps that it saved."""
        self._settle(num_steps)

    def rest(self) -> None:
        """Take note of a step that compares with nothing: while drafting is off, it counts too."""
        if not self.is_on:
            self._balance += self._refill
            if self._balance >= 0:
                self._probe()

    def _record_drafting(self, units: float, tokens_per_sequence: float, seconds: float) -> None:
        period = self._period
        period.num_steps += 1
        period.seconds += seconds
        period.plain_units += tokens_per_sequence * units
        period.step_units += units
        is_losing = self._references and self._saved_steps() < -LIMIT / 2
        if period.num_steps >= self._interval or is_losing:
            self._num_due = NUM_REFERENCES

    def _record_plain(self, seconds_per_unit: float) -> None:
        self._references.append(seconds_per_unit)
        self._reference = statistics.median(self._references)
        self._num_new += 1
        if not self.is_on:
            self.rest()
        elif self._num_due:
            self._num_due -= 1
            if not self._num_due and self._period.num_steps:
                self._compare()

    def _saved_steps(self) -> float:
        """Plain steps' worth of time that the period saved; negative if it lost."""
        period = self._period
        spent_units = period.seconds / self._reference
        return (period.plain_units - spent_units) / (period.step_units / period.num_steps)

    def _compare(self) -> None:
        saved = self._saved_steps()
        self._interval = min(2 * self._interval, MAX_INTERVAL) if saved > 0 else MIN_INTERVAL
        plain_s = self._period.plain_units * self._reference
        self._saved = GAIN_MEMORY * self._saved + plain_s
        self._spent = GAIN_MEMORY * self._spent + self._period.seconds
        self.gain_ratio = self._saved / self._spent
        self._period = _Period()
        while len(self._references) > self._num_new:  # the machine's load was another then
            self._references.popleft()
        self._reference = statistics.median(self._references)
        self._num_new = 0
        self._settle(saved)

    def _settle(self, saved: float) -> None:
        self._balance = max(min(self._balance + saved, LIMIT), -2 * LIMIT)
        if self._balance < -LIMIT:
            self._back_off()
        elif self._balance == LIMIT:
            self._refill = REFILL

    def _back_off(self) -> None:
        self.is_on = False
        self.num_backoffs += 1
        logger.warning(
            "speculation_off lost_plain_steps=%.1f probe_after_steps=%.0f gain_ratio=%.3f",
            -self._balance,
            -self._balance / self._refill,
            self.gain_ratio,  # looks further back than the balance, which forgets gains above LIMIT
        )

    def _probe(self) -> None:
        self.is_on = True
        self.num_probes += 1
        # What was lost before says nothing about now; the next wait is longer if this fails.
        self._saved = self._spent = 0.0
        self._interval = MIN_INTERVAL
        self._refill = max(self._refill / 2, MIN_REFILL)
        logger.info("speculation_on probe=%d", self.num_probes)


class Trust:
    """How much of what the drafter promises a namespace's sequences comes true."""

    def __init__(self) -> None:
        self._promises: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def of(self, namespace: str) -> float:
        """Accepted over promised tokens, at most 1; three quarters where nothing is known yet."""
        promised, accepted = self._promises.get(namespace, (0.0, 0.0))
        return min((accepted + PRIOR_KEPT) / (promised + PRIOR), 1.0)

    def record(self, namespace: str, promised: float, accepted: int) -> None:
        """Add a step's verified promises (0: none were verified) and what was accepted."""
        memory = MEMORY if promised else IDLE_MEMORY
        old_promised, old_accepted = self._promises.get(namespace, (0.0, 0.0))
        self._promises[namespace] = (
            memory * old_promised + promised,
            memory * old_accepted + accepted,
        )
        self._promises.move_to_end(namespace)
        if len(self._promises) > MAX_NAMESPACES:
            self._promises.popitem(last=False)


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
