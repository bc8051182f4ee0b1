"""Where compiled kernels are kept: one folder for each state of the sources."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba


def cache_folder(package: Path) -> Path:
    """Return a folder that can be written and that belongs to the package's very sources.

    By itself numba misses that a kernel in another file has changed, and runs the old one.
    """
    configured = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # made at import
    sources = sorted(package.glob("*.py"))
    version = hashlib.blake2b(b"".join(map(Path.read_bytes, sources)), digest_size=8).hexdigest()
    beside = Path(configured) if configured else package / "__pycache__"
    folder = beside / f"kernels-{version}"
    return folder if _is_writable(folder) else _private_folder() / f"kernels-{version}"


@contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Let functions that are decorated meanwhile keep their compiled code in the folder."""
    configured = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # as above
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # as above
    try:
        yield
    finally:
        numba.config.CACHE_DIR = configured  # type: ignore[attr-defined]  # as above


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
