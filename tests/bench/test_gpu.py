"""The GPU's bench runs without one, keeps to its time, and what it has found is never lost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu.__main__ import SECTIONS, parse
from bench.gpu.bundle import PACKAGES
from bench.gpu.profile import covered
from bench.gpu.report import FILE, MAX_TABLE_LINES, Note, Report, Result
from bench.gpu.runner import DeviceGone, OutOfTime, Runner, Section, alarm
from bench.serving.figures import Figure
from tests.support import ROOT

SETUP = {"device": "a card"}


class FakeLab:
    """Nothing to measure with."""

    def __init__(self) -> None:
        self.num_forgotten = 0
        self.lost = False

    def forget(self) -> None:
        self.num_forgotten += 1

    def is_lost(self) -> bool:
        return self.lost


class FakeTime:
    """A clock that sections set forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lab() -> Any:
    return FakeLab()


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def runner(lab: Any, clock: FakeTime, tmp_path: Path) -> Runner:
    return Runner(lab, Report(tmp_path, SETUP), clock, lambda seconds: nullcontext())


def found(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    return content


def section(
    name: str, clock: FakeTime, *, share_s: float = 10, each_s: float = 1, count: int = 3
) -> Section:
    """One that yields so many figures, each of which takes its time."""

    def run(lab: object) -> Iterator[Result]:
        for index in range(count):
            clock.now += each_s
            yield Figure(name, f"figure {index}", index, at_most=1)

    return Section(name, share_s, run)


def test_a_section_that_needs_too_long_ends_at_its_share_and_the_rest_runs(
    runner: Runner, clock: FakeTime, tmp_path: Path
) -> None:
    runner.run([section("slow", clock, count=100), section("quick", clock)], deadline_s=20)
    sections = found(tmp_path)["sections"]
    assert sections["slow"]["status"] == "out of time"
    assert len(sections["slow"]["results"]) == 10
    assert sections["quick"]["status"] == "done"


@given(each_s=st.lists(st.floats(0.1, 30), min_size=1, max_size=6), deadline_s=st.floats(1, 100))
def test_the_deadline_is_passed_by_one_result_of_each_section_at_most(
    each_s: list[float], deadline_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clock, lab = FakeTime(), FakeLab()
    folder = tmp_path_factory.mktemp("out")
    runner: Any = Runner(lab, Report(folder, SETUP), clock, lambda s: nullcontext())  # type: ignore[arg-type]
    runner.run(
        [section(f"s{i}", clock, each_s=s) for i, s in enumerate(each_s)], deadline_s=deadline_s
    )
    assert clock.now - 1000 <= deadline_s + sum(each_s)


def test_what_one_section_does_not_need_is_there_for_the_next(
    runner: Runner, clock: FakeTime, tmp_path: Path
) -> None:
    runner.run([section("quick", clock), section("slow", clock, count=15)], deadline_s=20)
    assert found(tmp_path)["sections"]["slow"]["status"] == "done"


def test_an_error_ends_its_section_and_no_other(
    runner: Runner, clock: FakeTime, lab: FakeLab, tmp_path: Path
) -> None:
    def broken(lab: object) -> Iterator[Result]:
        yield Note("broken", "first", "still there")
        raise ValueError("the card is on fire")

    sections = [Section("broken", 10, broken), section("whole", clock)]
    runner.run(sections, deadline_s=20)
    left = found(tmp_path)["sections"]
    assert left["broken"]["status"] == "failed"
    assert "ValueError: the card is on fire" in left["broken"]["error"]
    assert left["broken"]["results"][0]["text"] == "still there"
    assert left["whole"]["status"] == "done"
    assert lab.num_forgotten == 1  # nothing half done is handed on


def test_the_file_is_whole_after_each_result(
    runner: Runner, clock: FakeTime, tmp_path: Path
) -> None:
    seen: list[int] = []

    def looking(lab: object) -> Iterator[Result]:
        for index in range(3):
            seen.append(len(found(tmp_path)["sections"]["looking"]["results"]))
            yield Figure("looking", f"figure {index}", index)

    runner.run([Section("looking", 1, looking)], deadline_s=20)
    assert seen == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_bars_are_told_as_met_or_missed(runner: Runner, clock: FakeTime, tmp_path: Path) -> None:
    runner.run([section("barred", clock)], deadline_s=20)
    bars = found(tmp_path)["bars"]
    assert [(bar["name"], bar["met"]) for bar in bars] == [
        ("figure 0", True),
        ("figure 1", True),
        ("figure 2", False),
    ]
    assert "MISSED" in runner.report.table()[3]


def test_a_second_run_keeps_the_sections_that_it_does_not_run(
    lab: Any, clock: FakeTime, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        Runner(lab, Report(tmp_path, SETUP), clock, lambda s: nullcontext()).run(
            [section(name, clock)], deadline_s=20
        )
    assert list(found(tmp_path)["sections"]) == ["one", "two"]
    Report(tmp_path, {"device": "another card"}).begin("three", 1)
    assert list(found(tmp_path)["sections"]) == ["three"]


def test_a_lost_device_leaves_the_rest_to_another_process(
    runner: Runner, clock: FakeTime, lab: FakeLab
) -> None:
    lab.lost = True
    sections = [section(name, clock) for name in ("first", "second", "third")]
    with pytest.raises(DeviceGone) as gone:
        runner.run(sections, deadline_s=60)
    assert gone.value.left == ("second", "third")
    assert gone.value.left_s == 57


def test_an_alarm_interrupts_what_yields_nothing() -> None:
    with pytest.raises(OutOfTime), alarm(0.05):
        while True:
            time.sleep(0.01)


def test_the_table_has_a_hundred_lines_at_most(
    runner: Runner, clock: FakeTime, tmp_path: Path
) -> None:
    runner.run([section("long", clock, each_s=0, count=500)], deadline_s=20)
    table = runner.report.table()
    assert len(table) == MAX_TABLE_LINES
    assert table[-1] == f"and 402 more in {FILE}"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted), max_size=8))
def test_covered_time_is_that_in_which_something_runs(intervals: list[list[int]]) -> None:
    moments = {moment for start, end in intervals for moment in range(start, end)}
    assert covered((start, end) for start, end in intervals) == len(moments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device", "cpu"],
        ["--device", "cpu", "--small", "--sections", "machine,nothing"],
        ["--device", "cpu", "--small", "--traces", "/nowhere"],
    ],
)
def test_what_there_is_not_is_refused_at_once(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--out", "x", "--deadline", "1", *arguments])
    assert "error:" in capsys.readouterr().err


def test_what_the_bundle_downloads_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(PACKAGES) <= {line.partition("==")[0] for line in lines}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run of all sections on the processor."""
    folder = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-m", "bench.gpu", "--out", str(folder), "--deadline", "400"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--device", "cpu", "--small"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_every_section_runs_small_on_a_cpu(small_run: tuple[Path, str]) -> None:
    sections = found(small_run[0])["sections"]
    assert list(sections) == [each.name for each in SECTIONS]
    errors = {name: each.get("error") for name, each in sections.items()}
    assert {each["status"] for each in sections.values()} == {"done"}, errors
    assert all(each["results"] for each in sections.values())


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_words_and_bits_are_equal_on_a_cpu(small_run: tuple[Path, str]) -> None:
    results = found(small_run[0])["sections"]
    barred = [
        r for name in ("families", "exactness") for r in results[name]["results"] if "met" in r
    ]
    judged = {result["name"]: result["met"] for result in barred if result["met"] is not None}
    assert len(judged) >= 10
    assert all(judged.values()), judged


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_the_output_ends_with_the_table(small_run: tuple[Path, str]) -> None:
    lines = small_run[1].splitlines()
    first = lines.index("machine     done")
    assert len(lines) - first <= MAX_TABLE_LINES
