"""What the fast tests ran, as Markdown: `python -m tests.support.coverage_summary JSON SUMMARY`.

Prints it, writes it, appends it to the summary of a GitHub job, and fails below the bar.
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

BAR = 90.0  # a file below is named
# All files together must reach this. The fast tests start no process, so what only processes run is
# not counted: the log in Redis, the replicas, the local stack.
LEAST = 80.0


def percent(counts: list[dict[str, int]]) -> float:
    """Lines and branches run, of all there are."""
    run = sum(c["covered_lines"] + c["covered_branches"] for c in counts)
    of = sum(c["num_statements"] + c["num_branches"] for c in counts)
    return 100.0 * run / of if of else 100.0


def summary(report: dict[str, Any]) -> str:
    """A table of the packages, and the files below the bar with their lines that never ran."""
    files = {name: file["summary"] for name, file in report["files"].items()}
    packages: dict[str, list[dict[str, int]]] = defaultdict(list)
    for name, counts in files.items():
        packages[name.split("/")[0]].append(counts)
    lines = [
        "## Coverage by the fast tests",
        "",
        "| package | run |",
        "|---|---|",
    ]
    lines += [f"| {name} | {percent(counts):.1f} % |" for name, counts in sorted(packages.items())]
    lines += [f"| **all** | **{percent(list(files.values())):.1f} %** |", ""]
    below = sorted((percent([counts]), name) for name, counts in files.items())
    below = [(value, name) for value, name in below if value < BAR]
    if below:
        lines += [f"Files below {BAR:.0f} %:", "", "| file | run | lines that never ran |"]
        lines += ["|---|---|---|"]
        lines += [
            f"| {name} | {value:.1f} % | {spans(report['files'][name]['missing_lines'])} |"
            for value, name in below
        ]
    return "\n".join(lines) + "\n"


def spans(lines: list[int]) -> str:
    """Line numbers with neighbours joined: 3-5, 9."""
    found: list[list[int]] = []
    for line in lines:
        if found and found[-1][1] == line - 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def main(source: Path, target: Path) -> int:
    """Write the summary; 1 where too little was run."""
    report = json.loads(source.read_text())
    text = summary(report)
    target.write_text(text)
    job = os.environ.get("GITHUB_STEP_SUMMARY")
    if job:
        with Path(job).open("a") as page:
            page.write(text)
    sys.stdout.write(text)
    return int(percent([file["summary"] for file in report["files"].values()]) < LEAST)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
