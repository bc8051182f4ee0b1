"""How long a model's steps take on this machine: measured once, and kept in the user's cache."""

import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verifier.model.batch import draft_segment, prompt_segment
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
    is_steady: bool = True  # the curve came out the same twice


PLAIN = Measurements(StepCurve([1, 2], [1.0, 2.0]))  # no drafts, no choices


def load_or_measure(path: Path, model: TargetModel) -> Measurements:
    """The measurements saved at `path`, or fresh ones, saved for the next start."""
    if model.form is VerificationMode.PLAIN:
        return PLAIN
    saved, key = _read(path), _key(model)
    try:
        entry = saved[key]
        if entry["rows"] != list(row_counts(model)):
            raise ValueError("measured at other row counts")
        curve = StepCurve(entry["rows"], entry["seconds"], float(entry["attention_s"]))
        return Measurements(curve)
    except (KeyError, TypeError, ValueError, AssertionError):
        measured = measure(model)
    if not measured.is_steady:
        return measured  # this machine was busy: the next start measures again
    _write(path, saved | {key: measured.curve.as_dict()})
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
        curve = StepCurve(counts, seconds, _attention_seconds(run))
        return Measurements(curve, is_steady=agree(first, second))
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


def agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two curves say the same; a line in the log where they do not."""
    worst = max(max(a, b) / min(a, b) for a, b in zip(first, second, strict=True))
    if worst > STEADY:
        logger.warning("steps_unsteady ratio=%.2f limit=%.2f: measured, not kept", worst, STEADY)
    return worst <= STEADY


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


def cache_path() -> Path:
    """Where measurements are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lookahead" / "measurements.json"


def _key(model: TargetModel) -> str:
    """All that times depend on."""
    parts = (
        model.fingerprint,
        model.form.name + (" compiled" if model.is_compiled else ""),
        f"{model.device} x{model.num_processes} {_device_name(model.device)}",
        platform.node(),
        str(torch.get_num_threads()),
        str(os.cpu_count()),
        torch.__version__,
        version("transformers"),
        f"{model.attention} over {model.max_context}",
    )
    return "/".join(parts)


def _device_name(device: torch.device) -> str:
    """Which card it is, and what drives it: a pod may find another one at its next start."""
    if device.type != "cuda":
        return ""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    libraries = f"cuda {torch.version.cuda} cudnn {cudnn}"
    return f"{torch.cuda.get_device_name(device)} {libraries}"


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _write(path: Path, entries: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(entries))
        temporary.replace(path)
    except OSError:
        return  # a read-only cache only means that the next start measures again
