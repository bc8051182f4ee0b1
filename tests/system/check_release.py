"""The release as its user gets it: built, installed in an environment of its own, started.

Building and installing take a minute or more, so `make test` leaves it out and `make release-check`
runs it.
"""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from tests.support import ROOT as ROOT

pytestmark = pytest.mark.timeout(900)

PACKAGES = ("protos", "rpc", "drafter", "verifier", "embedded", "lookahead")
BUILD_FILES = {"LICENSE", "README.md", "pyproject.toml"}
KEPT_BACK = {"protos/buf.yaml"}  # settings of a tool
# What a strictly typed program of a user looks like.
PROGRAM = """
from lookahead import Client
from lookahead.client import GenerationResult

def answer(client: Client) -> GenerationResult:
    return client.generate("The lighthouse was built in", max_tokens=8).result

reveal_type(Client("127.0.0.1:50051").model().model)
"""


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command where none of the checkout's modules can be found; return what it says."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the checkout and a wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The folder of commands of an environment that holds the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    install(folder / "bin", str(wheel))
    return folder / "bin"


def install(commands: Path, requirement: str) -> None:
    pip = [commands / "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--constraint", ROOT / "constraints.txt", requirement], cwd=commands)


def published() -> set[str]:
    """Every file of the packages, by its path in the checkout."""
    paths = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    names = {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}
    return names - KEPT_BACK


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == published()
    # The data that the packages read, and the marker that their types are to be used.
    assert {"drafter/drafting/prior.npz", "lookahead/view/index.html"} < held
    assert {f"{package}/py.typed" for package in PACKAGES} < held


def test_the_sdist_holds_all_that_builds_the_wheel(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert published() | BUILD_FILES <= held


def test_the_metadata_is_what_an_index_accepts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(name), validate=True)
    assert metadata.name == "lookahead-serving"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()


def test_the_installed_package_has_all_its_files(fresh: Path, tmp_path: Path) -> None:
    code = "import lookahead, pathlib; print(pathlib.Path(lookahead.__file__).parent.parent)"
    site = Path(run([fresh / "python", "-c", code], cwd=tmp_path).strip())
    assert site.is_relative_to(fresh.parent)
    assert [name for name in sorted(published()) if not (site / name).is_file()] == []


def test_the_command_answers_with_the_base_dependencies_alone(fresh: Path, tmp_path: Path) -> None:
    said = run([fresh / "lookahead", "--help"], cwd=tmp_path)
    assert all(command in said for command in ("generate", "serve", "doctor", "trie"))
    assert "--model" in run([fresh / "lookahead", "serve", "--help"], cwd=tmp_path)


def test_a_users_program_is_typed(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", fresh / "python"]
    said = run([*mypy, "program.py"], cwd=tmp_path)
    assert 'Revealed type is "str"' in said


def test_the_drafter_starts_with_its_own_extra(fresh: Path, wheel: Path, tmp_path: Path) -> None:
    install(fresh, f"{wheel}[drafter]")
    said = run([fresh / "python", "-m", "drafter", "--help"], cwd=tmp_path)
    assert "--redis" in said
