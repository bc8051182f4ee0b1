"""Collects what a machine with a GPU and without a network needs: `python -m bench.gpu.bundle`.

The folder holds our own code, the packages that such a machine lacks beside torch and transformers'
own needs, recorded answers where there are some, and `run.sh`, which starts `bench.gpu`.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_BYTES = 60 << 20
# Absent beside torch and transformers, or mostly too old. Versions are those of constraints.txt.
PACKAGES = (
    "annotated-types",
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "grpcio-status",
    "hiredis",
    "llguidance",
    "protobuf",
    "pydantic",
    "pydantic-settings",
    "pydantic_core",
    "python-dotenv",
    "redis",
    "transformers",
    "typing-inspection",
    "typing_extensions",
    "zstandard",
)
# pip takes a name of a platform literally: each that the packages are built for.
PLATFORMS = ("manylinux_2_31_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
# What runs from a checkout only; the rest is in our wheel.
CODE = ("bench", "tests/__init__.py", "tests/support/__init__.py", "tests/support/models")


def bundle(folder: Path, traces: Path | None, python_version: str) -> int:
    """Make the folder anew; return its bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    _download(wheels, python_version)
    _build(wheels)
    for name in CODE:
        _copy(ROOT / name, folder / "code" / name)
    if traces is not None:
        _copy(traces, folder / "traces")
    shutil.copy2(Path(__file__).parent / "run.sh", folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _download(wheels: Path, python_version: str) -> None:
    platforms = [f"--platform={name}" for name in PLATFORMS]
    wanted = ["--only-binary=:all:", "--no-deps", f"--python-version={python_version}"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels)]
    subprocess.run([*pip, *wanted, *platforms, *constraints, *PACKAGES], check=True)


def _build(wheels: Path) -> None:
    """Our own wheel, from a copy of the sources, so that nothing old slips into it."""
    build = [sys.executable, "-m", "build", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    for archive in wheels.glob("*.tar.gz"):
        archive.unlink()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def main() -> None:
    """Run from the command line; status 1 where the folder is too large."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.bundle", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--traces", type=Path, help="directory of *.jsonl.gz")
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    args = parser.parse_args()
    size = bundle(args.folder, args.traces, args.python_version)
    print(f"{args.folder}: {size / 2**20:.1f} MiB, of {MAX_BYTES >> 20} allowed")
    if size > MAX_BYTES:
        raise SystemExit(f"{args.folder} is too large to be carried along")


if __name__ == "__main__":
    main()
