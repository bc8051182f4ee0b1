"""Cores and threads, memory, disk, the GPU, and the folders that must be writable."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lookahead.doctor.finding import Finding, ok, problem, warning
from rpc.units import gib

MIN_FREE_BYTES = 2 << 30  # weights that are converted once, logs, what Redis keeps
DRIVER = Path("/proc/driver/nvidia/version")
THREADS = ("LOOKAHEAD_VERIFIER_THREADS", "OMP_NUM_THREADS")


def check_threads(environ: Mapping[str, str], cores: int) -> Finding:
    """Whether the model's threads have a core each."""
    name = next((name for name in THREADS if environ.get(name, "0") not in ("0", "")), None)
    if name is None:
        return ok("threads", f"{cores} cores, one thread each")
    given = environ[name]
    if not given.isdecimal():
        return problem("threads", f"{name}={given} is not a number", f"unset {name}")
    if int(given) > cores:
        return warning(
            "threads",
            f"{name}={given} on {cores} cores: threads will wait for each other",
            f"set {name}={cores} or less",
        )
    return ok("threads", f"{given} of {cores} cores ({name})")


def check_load(load: float, cores: int) -> Finding:
    """Whether the machine is busy."""
    if load < 0.5 * cores:
        return ok("load", f"{load:.1f} on {cores} cores")
    return warning(
        "load",
        f"{load:.1f} on {cores} cores, which spoils the verifier's first measurements",
        "start when it is quiet, or then delete models.json in the cache and restart",
    )


def check_folder(path: Path) -> Finding:
    """Whether the folder can be written to, and has room."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return problem(
            "cache", f"{path}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder"
        )
    free = shutil.disk_usage(path).free
    if free < MIN_FREE_BYTES:
        return warning("cache", f"{path} has {gib(free)} left", "free some space on that disk")
    return ok("cache", f"{path}, {gib(free)} free")


def check_kernels(folder: Path | None = None) -> Finding:
    """Whether the drafter finds its kernels compiled, and where they are kept.

    `folder`: where the drafter would look, where it is not given.
    """
    from drafter.kernels.compile import CACHE  # takes a second

    folder = folder or CACHE
    if not folder.is_relative_to(tempfile.gettempdir()):
        if any(folder.rglob("*.nbi")):
            return ok("kernels", f"compiled, in {folder}")
        return ok("kernels", "will be compiled during the first requests (half a minute), and kept")
    return warning(
        "kernels",
        f"kept in {folder}, which may be lost when this machine restarts",
        "set NUMBA_CACHE_DIR to a writable folder",
    )


def check_gpu(environ: Mapping[str, str], driver: Path = DRIVER) -> Finding:
    """Whether torch can use the GPU that the machine has."""
    import torch  # takes a second

    if torch.cuda.is_available():
        return ok("gpu", f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    if environ.get("LOOKAHEAD_VERIFIER_DEVICE") == "cuda":
        return problem(
            "gpu",
            "LOOKAHEAD_VERIFIER_DEVICE=cuda, but torch finds no GPU",
            "unset it, or install a driver and a CUDA build of torch",
        )
    if driver.exists():
        cuda = torch.version.cuda
        build = "a CPU build" if cuda is None else f"built for CUDA {cuda}"
        return warning(
            "gpu",
            f"there is an NVIDIA driver, but torch {torch.__version__}, {build}, cannot use it",
            "install a build of torch that matches the driver",
        )
    return ok("gpu", "none; the model runs on the CPU")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
