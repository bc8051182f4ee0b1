"""The summary of what the tests ran names what they did not, and fails below the bar."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.coverage_summary import main, summary


def file(lines: int, missing: list[int], branches: int, covered_branches: int) -> dict[str, Any]:
    counts = {
        "covered_lines": lines - len(missing),
        "num_statements": lines,
        "covered_branches": covered_branches,
        "num_branches": branches,
    }
    return {"summary": counts, "missing_lines": missing}


def report(**files: dict[str, Any]) -> dict[str, Any]:
    return {"files": {f"{name.replace('_', '/')}.py": value for name, value in files.items()}}


def test_packages_are_summed_and_files_below_the_bar_named_with_their_lines() -> None:
    text = summary(report(rpc_whole=file(80, [], 20, 20), rpc_half=file(10, [3, 4, 5, 9], 10, 5)))
    assert "| rpc | 92.5 % |" in text and "| **all** | **92.5 %** |" in text
    assert "| rpc/half.py | 55.0 % | 3-5, 9 |" in text
    assert "rpc/whole" not in text


@pytest.mark.parametrize(("missing", "status"), [(20, 0), (21, 1)])
def test_too_little_is_a_failure_and_the_job_is_told(
    missing: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, job = (tmp_path / name for name in ("coverage.json", "summary", "job"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    job.write_text("what others wrote\n")
    source.write_text(json.dumps(report(rpc_some=file(100, list(range(missing)), 0, 0))))
    assert main(source, target) == status
    assert job.read_text() == "what others wrote\n" + target.read_text()
