"""How long a model's steps take on this machine: measured once, and followed while it serves."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.findings import Findings, key_of
from verifier.model.model import TargetModel, VerificationMode
from verifier.speculation.budget import GPU_ROW_COUNTS, ROW_COUNTS, StepCurve
from verifier.speculation.tree import chain

logger = logging.getLogger(__name__)

NUM_TIMINGS = 2  # of each of the two times that a curve is measured
# Two curves agree when no point of one is further than this above the other's.
STEADY = 1.25
PROMPT_LEN = 64  # of the sequence that is measured on
LONG_LEN, LONG_ROWS = 2048, 16  # of the pass that shows what attention costs


@dataclass(frozen=True, slots=True)
class Measurements:
    """A model on a machine."""

    curve: StepCurve


PLAIN = Measurements(StepCurve([1, 2], [1.0, 2.0]))  # no drafts, no choices


def load_or_measure(findings: Findings, model: TargetModel) -> Measurements:
    """The measurements that are known, or fresh ones, kept for the next start."""
    if model.form is VerificationMode.PLAIN:
        return PLAIN
    key = key_of(model)
    try:
        known = findings.get(key)
        if known["rows"] != list(row_counts(model)):
            raise ValueError("measured at other row counts")
        curve = StepCurve(known["rows"], known["seconds"], float(known["attention_s"]))
        return Measurements(curve)
    except (KeyError, TypeError, ValueError, AssertionError):
        measured = measure(model)
    findings.put(key, **measured.curve.as_dict())
    return measured


def measure(model: TargetModel) -> Measurements:
    """Measure on a slot of the idle model; a few dozen passes."""
    slot = model.slots.allocate()
    prompt = tuple(2 + i % (model.vocabulary_size - 2) for i in range(PROMPT_LEN))
    try:
        model.forward([prompt_segment(slot, 0, prompt, is_last=True)])
        model.commit(slot, list(range(PROMPT_LEN)))
        run = Runner(model, slot)
        counts = row_counts(model)
        first, second = _step_seconds(run, counts), _step_seconds(run, counts)
        seconds = list(map(min, first, second))  # a busy machine only ever adds time
        by_rows = " ".join(f"{n}:{1e3 * s:.1f}" for n, s in zip(counts, seconds, strict=True))
        logger.info("steps_measured ms=%r", by_rows)
        tell_if_unsteady(first, second)
        return Measurements(StepCurve(counts, seconds, _attention_seconds(run)))
    finally:
        model.slots.free(slot)


def row_counts(model: TargetModel) -> tuple[int, ...]:
    """The sizes of passes that are measured, as far as a sequence has room for them."""
    room = model.max_context - PROMPT_LEN
    counts = ROW_COUNTS if model.device.type == "cpu" else GPU_ROW_COUNTS
    return tuple(rows for rows in counts if rows <= max(room, ROW_COUNTS[-1]))


@dataclass(frozen=True, slots=True)
class Runner:
    """Chains of rows on one slot."""

    model: TargetModel
    slot: int

    def logits(self, rows: int, kv_len: int) -> Tensor:
        """Logits [rows, vocabulary] of a chain after so many rows, whatever these hold."""
        tokens = [2 + (kv_len + i) * 7 % (self.model.vocabulary_size - 2) for i in range(rows)]
        return self.model.forward([draft_segment(self.slot, kv_len, tokens[0], chain(tokens[1:]))])


def tell_if_unsteady(first: Sequence[float], second: Sequence[float]) -> None:
    """A line in the log where a curve came out otherwise the second time."""
    worst = max(max(a, b) / min(a, b) for a, b in zip(first, second, strict=True))
    if worst > STEADY:
        logger.warning("steps_unsteady ratio=%.2f limit=%.2f: the machine is busy", worst, STEADY)


def _seconds(run: Runner, rows: int, kv_len: int = PROMPT_LEN) -> float:
    started = time.perf_counter()
    run.logits(rows, kv_len)[:, 0].tolist()  # wait for the device
    return time.perf_counter() - started


def _step_seconds(run: Runner, counts: Sequence[int]) -> list[float]:
    """The shortest time of each row count, over rounds: a busy machine only ever adds time."""
    rounds = [[_seconds(run, rows) for rows in counts] for _ in range(NUM_TIMINGS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _attention_seconds(run: Runner) -> float:
    """What each row adds per cached row it attends to: a difference of differences."""
    long_len = max(min(LONG_LEN, run.model.max_context) - LONG_ROWS, PROMPT_LEN)
    shapes = [(rows, kv_len) for kv_len in (PROMPT_LEN, long_len) for rows in (1, LONG_ROWS)]
    rounds = [[_seconds(run, *shape) for shape in shapes] for _ in range(NUM_TIMINGS)]
    one, many, long_one, long_many = (min(times) for times in zip(*rounds, strict=True))
    added_s: float = max((long_many - many) - (long_one - one), 0.0)
    return added_s / ((LONG_ROWS - 1) * max(long_len - PROMPT_LEN, 1))
