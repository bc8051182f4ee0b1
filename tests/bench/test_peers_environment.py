"""Peers are installed once, into environments of their own; without them there is a reason."""

import subprocess
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from bench.serving.peers.environment import Environment, python_of
from bench.serving.peers.run import Plan, run
from bench.serving.peers.samples import Row
from bench.serving.peers.worker import PeerUnavailable
from tests.support.models.saved_model import save_small_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
QUIET = Console(quiet=True)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip finds packages, and nowhere else; the cache is empty."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def write_wheel(shelf: Path, name: str, version: str) -> None:
    """A package that holds its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(shelf / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def says(python: Path) -> str:
    command = [str(python), "-c", "import toy; print(toy.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_environment_is_made_once_and_again_when_its_pins_change(shelf: Path) -> None:
    write_wheel(shelf, "toy", "1.0")
    python = python_of(Environment("toy", "toy", "1.0"), QUIET)
    assert says(python) == "1.0"
    (shelf / "toy-1.0-py3-none-any.whl").unlink()
    assert python_of(Environment("toy", "toy", "1.0"), QUIET) == python
    with pytest.raises(PeerUnavailable, match=r"cannot be installed: .*toy==2\.0"):
        python_of(Environment("toy", "toy", "2.0"), QUIET)


def test_installation_that_broke_off_is_done_again(shelf: Path) -> None:
    environment = Environment("toy", "toy", "1.0")
    with pytest.raises(PeerUnavailable):
        python_of(environment, QUIET)
    write_wheel(shelf, "toy", "1.0")
    assert says(python_of(environment, QUIET)) == "1.0"


def test_comparison_without_any_peer_has_our_figures_and_the_reasons(
    shelf: Path, tmp_path: Path
) -> None:
    save_small_model(tmp_path / "small")
    tasks = ("free text", "read 200")
    plan = Plan(str(tmp_path / "small"), ("float32",), tasks, rounds=1, tokens=8)
    report = run(plan, QUIET)
    assert report.rows("float32") == [
        Row("ours", "plain"),
        Row("ours", "drafted", "cold"),
        Row("ours", "drafted", "warm"),
    ]
    assert report.tasks() == list(tasks)
    assert all(sample.seconds > 0 for sample in report.samples)
    assert len(report.skipped) == 5
    assert all(each.reason.startswith("cannot be installed: ") for each in report.skipped)
