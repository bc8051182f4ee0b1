"""Everything that a run measured, saved and loaded as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.serving.peers.samples import Row, Sample

Value = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A way without figures, or without all of them."""

    dtype: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The samples, and what they are samples of."""

    model: str
    machine: str
    versions: dict[str, str]
    rounds: int
    tokens: int
    skipped: list[Skipped]
    samples: list[Sample]

    def dtypes(self) -> list[str]:
        """The types of the weights, in the order in which they were measured."""
        return list(dict.fromkeys(sample.dtype for sample in self.samples))

    def tasks(self) -> list[str]:
        """The tasks, in the order in which they were measured."""
        return list(dict.fromkeys(sample.task for sample in self.samples))

    def rows(self, dtype: str) -> list[Row]:
        """The rows of a type: ours, then the peers, each plain first."""
        found = {sample.row for sample in self.samples if sample.dtype == dtype}
        order = ("ours", "vLLM", "llama.cpp")
        return sorted(found, key=lambda r: (order.index(r.system), r.method != "plain", r.name))

    def by_round(self, dtype: str, task: str, row: Row) -> dict[int, Sample]:
        """The samples of one cell of the table."""
        return {
            sample.round: sample
            for sample in self.samples
            if (sample.dtype, sample.task, sample.row) == (dtype, task, row)
        }

    def median(self, dtype: str, task: str, row: Row, value: Value) -> float | None:
        """Of a cell's samples; None where there is none."""
        values = [value(sample) for sample in self.by_round(dtype, task, row).values()]
        return statistics.median(values) if values else None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))


def load_report(path: Path) -> Report:
    """Read what was saved."""
    fields = json.loads(path.read_text())
    skipped = [Skipped(**each) for each in fields.pop("skipped")]
    samples = [Sample(**{**each, "row": Row(**each["row"])}) for each in fields.pop("samples")]
    return Report(**fields, skipped=skipped, samples=samples)


def machine() -> str:
    """The processor and its cores."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
