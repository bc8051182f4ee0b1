"""What the machine is, and its two ceilings: how fast memory is read, and how fast products are."""

import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from bench.gpu.lab import Lab
from bench.gpu.report import Note, Result
from bench.gpu.timing import measure_times, wait
from bench.serving.figures import Figure

SECTION = "machine"
PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "numba", "grpcio", "protobuf")
NUM_LAUNCHES = 2000
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def machine(lab: Lab) -> Iterator[Result]:
    """Names and versions, then speeds."""
    yield Note(SECTION, "device", device_name(lab.device), details=_device(lab.device))
    versions = {name: _version(name) for name in PACKAGES}
    text = ", ".join(f"{name} {each}" for name, each in versions.items())
    yield Note(SECTION, "versions", f"Python {platform.python_version()}, {text}", versions)
    yield Note(SECTION, "fused attention", _fused())
    yield Figure(SECTION, "copy on the device, read and written", lab.bandwidth / 1e9, "GB/s")
    yield Figure(SECTION, f"product of {lab.sizes.product}^3, bfloat16", _product(lab), "TFLOP/s")
    yield Figure(SECTION, "launch of an empty operation", _launch_us(lab.device), "us")
    yield Figure(SECTION, "small copy to the host, waited for", _small_copy_us(lab), "us")
    yield Figure(SECTION, "a million additions in Python", _python_ms(), "ms")
    yield Note(SECTION, "driver", _driver())


def device_name(device: torch.device) -> str:
    """The card's, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _device(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {"threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    return {
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "there is no nvidia-smi"
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return (done.stdout or done.stderr).strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _fused() -> str:
    """Which of torch's kernels may be chosen; the verifier switches cuDNN's off."""
    cuda: Any = torch.backends.cuda
    kinds = ("flash", "mem_efficient", "math", "cudnn")
    on = [kind for kind in kinds if getattr(cuda, f"{kind}_sdp_enabled")()]
    return f"on: {', '.join(on)}"


def _product(lab: Lab) -> float:
    size = lab.sizes.product
    a, b = (torch.randn(size, size, device=lab.device, dtype=lab.dtype) for _ in "ab")
    times = measure_times(lambda: a @ b, lab.device, rounds=lab.sizes.rounds)
    return 2 * size**3 / (1e-3 * times.device_ms) / 1e12


def _launch_us(device: torch.device) -> float:
    """With the device kept busy by the launches before."""
    x = torch.zeros(1, device=device)
    x.add_(1)
    wait(device)
    started = time.perf_counter()
    for _ in range(NUM_LAUNCHES):
        x.add_(1)
    wait(device)
    return 1e6 * (time.perf_counter() - started) / NUM_LAUNCHES


def _small_copy_us(lab: Lab) -> float:
    x = torch.zeros(64, device=lab.device)
    return 1e3 * measure_times(lambda: x.cpu(), lab.device, rounds=50).wall_ms


def _python_ms() -> float:
    started = time.perf_counter()
    total = 0
    for i in range(1_000_000):
        total += i
    return 1e3 * (time.perf_counter() - started)
