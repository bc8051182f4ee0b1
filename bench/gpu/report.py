"""What was found: a file that is whole after each result, a line for each, a table at the end."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from bench.serving.figures import Figure

FILE = "gpu.json"
MAX_TABLE_LINES = 100
NAME_WIDTH = 62


@dataclass(frozen=True, slots=True)
class Note:
    """What is no number; `details` stand in the file only."""

    section: str
    name: str
    text: str
    details: Mapping[str, object] = field(default_factory=dict)


Result: TypeAlias = Figure | Note


class Report:
    """The results of one setup, kept in a folder; sections that run again replace theirs."""

    def __init__(self, folder: Path, setup: Mapping[str, object]) -> None:
        """`setup`: what results depend on; those of another one are not kept."""
        self._path = folder / FILE
        self._setup = dict(setup)
        self._sections = _earlier(self._path, self._setup)
        self._results: dict[str, list[Result]] = {}

    def begin(self, section: str, limit_s: float) -> None:
        """Forget what the section found before."""
        self._results[section] = []
        self._sections[section] = {"status": "running", "limit_s": limit_s, "results": []}
        self._write()

    def add(self, result: Result) -> None:
        """Keep one result, on the disk too, and print it."""
        self._results[result.section].append(result)
        self._sections[result.section]["results"].append(_entry(result))
        self._write()
        print(line(result), flush=True)

    def end(self, section: str, status: str, seconds: float, error: str = "") -> None:
        """Close a section; `error`: the traceback of what ended it."""
        self._sections[section] |= {"status": status, "seconds": round(seconds, 2)}
        if error:
            self._sections[section]["error"] = error
        self._write()
        last = error.strip().splitlines()[-1] if error else ""
        print(f"{section:11} {status} after {seconds:.1f} s {last}".rstrip(), flush=True)

    def table(self) -> list[str]:
        """The state of each section, then what has a bar, then the rest as far as it has room."""
        states = [f"{name:11} {each['status']}" for name, each in self._sections.items()]
        results = [result for each in self._results.values() for result in each]
        barred = [r for r in results if isinstance(r, Figure) and r.passes is not None]
        rest = [result for result in results if result not in barred]
        lines = [*states, *map(line, barred), *map(line, rest)]
        if len(lines) <= MAX_TABLE_LINES:
            return lines
        num_left_out = len(lines) - MAX_TABLE_LINES + 1
        return [*lines[: MAX_TABLE_LINES - 1], f"and {num_left_out} more in {self._path.name}"]

    def _write(self) -> None:
        """In one go, so that whoever is interrupted leaves a whole file."""
        bars = [
            {"section": name, **{k: v for k, v in each.items() if v is not None}}
            for name, section in self._sections.items()
            for each in section["results"]
            if each.get("met") is not None
        ]
        content = {"setup": self._setup, "sections": self._sections, "bars": bars}
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(self._path)


def _earlier(path: Path, setup: dict[str, object]) -> dict[str, dict[str, Any]]:
    """The sections that an earlier run of the same setup left."""
    try:
        found = json.loads(path.read_text())
        kept: dict[str, dict[str, Any]] = found["sections"] if found["setup"] == setup else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return kept


def _entry(result: Result) -> dict[str, Any]:
    fields = {k: v for k, v in asdict(result).items() if k != "section"}
    return fields | {"met": result.passes} if isinstance(result, Figure) else fields


def line(result: Result) -> str:
    """One line for people."""
    head = f"{result.section:11} {result.name:{NAME_WIDTH}}"
    if isinstance(result, Note):
        return f"{head} {result.text}".rstrip()
    text = f"{head} {result.value:10.4g} {result.unit}".rstrip()
    if result.passes is None:
        return text
    bar = f">= {result.at_least:g}" if result.at_least is not None else f"<= {result.at_most:g}"
    return f"{text}  {bar} {'met' if result.passes else 'MISSED'}"
