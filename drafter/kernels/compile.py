"""How every kernel is compiled: without the interpreter lock, and cached where a disk allows it.

Kernels are free functions over plain arrays; the classes that own the arrays are in other files.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

# Inside a kernel every number is a NumPy scalar or a Python one.
Int = int | np.integer[Any]
Real = float | np.floating[Any]
# At every signed index numba asks whether it counts back from the end of the array. That takes a
# fifth of the time of a draft, so the loops that run most make their indices unsigned.
Index = np.uint64

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function on its first call; it releases the interpreter lock and is cached."""
    # A dispatcher is called exactly like the function it compiles.
    return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def part(function: Function) -> Function:
    """Compile a function that only kernels call, into each of them: no calls, no way in."""
    options: dict[str, Any] = {
        "forceinline": True,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    return cast(Function, compiled)


def use_own_cache() -> None:
    """Point numba at a folder that can be written and that belongs to these very sources.

    By itself numba misses that a kernel in another file has changed, and runs the old one.
    """
    configured = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # made at import
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.blake2b(b"".join(map(Path.read_bytes, sources)), digest_size=8).hexdigest()
    beside = Path(configured) if configured else Path(__file__).parent / "__pycache__"
    folder = beside / f"kernels-{version}"
    if not _is_writable(folder):
        folder = _private_folder() / f"kernels-{version}"
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # as above


def cache_folder() -> Path:
    """Return where compiled kernels are kept."""
    return Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]  # as above


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> Path:
    """A folder only this user can write: cached kernels are code, so nobody else may plant one."""
    folder = Path(tempfile.gettempdir()) / f"lookahead-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lookahead-kernels-"))
    private = status.st_uid == os.getuid() and not status.st_mode & 0o022
    if folder.is_symlink() or not private or not _is_writable(folder):
        return Path(tempfile.mkdtemp(prefix="lookahead-kernels-"))
    return folder


use_own_cache()
