"""Models converted once into the user's cache; plain directories from then on.

`--model demo` and `--model demo-gemma` mean such models, and so does the path of a .gguf file. What
else is named goes to transformers as it is.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from lookahead.stack.demo_models import DEMO_MODELS, DemoModel, ModelUnavailable

CONVERTER = [sys.executable, "-m", "lookahead.stack.dense_model"]
FILES_OWN = "auto"  # the type of the file's weights, or float32 where they are quantised
NUM_STAGES = 4  # fetching, and the converter's
LOG = "convert.log"


def resolve_model(model: str, console: Console, environ: Mapping[str, str] = os.environ) -> str:
    """Return what to load for `model`; makes a model of ours where that was never done."""
    if demo := DEMO_MODELS.get(model):
        return str(_cached(demo.name, environ, lambda partial: _make_demo(demo, partial, console)))
    _check_path(model)
    path = Path(model)
    if path.suffix == ".gguf":
        name = gguf_name(path)
        return str(_cached(name, environ, lambda partial: _make_gguf(path, partial, console)))
    return model


def _check_path(model: str) -> None:
    """Refuse at once what a hub would be asked for in vain, half a minute later."""
    path = Path(model)
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelUnavailable(f"--model: {model} has no config.json")
    if not path.exists() and (model.startswith((".", "/", "~")) or path.suffix == ".gguf"):
        raise ModelUnavailable(f"--model: {model} does not exist")


def gguf_name(path: Path) -> str:
    """What the checkpoint made of a file is called: other contents, another name."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stem}-{digest[:12]}"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where everything is kept that can be made again."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", Path.home())) / ".cache"
    return Path(cache) / "lookahead"


def cached_model(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where a model lies once it is made."""
    return cache_directory(environ) / "models" / name


def is_complete(target: Path) -> bool:
    """Whether `target` holds a model. Only a finished conversion is ever moved to that name."""
    return (target / "config.json").exists()


def _cached(name: str, environ: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """The model of that name, made by what fills an empty directory."""
    target = cached_model(name, environ)
    if not is_complete(target):
        with locked(target.with_name(f".{name}.lock")):
            if not is_complete(target):  # another process may have made it while we waited
                _fill(target, make)
    return target


def _fill(target: Path, make: Callable[[Path], None]) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
    partial.mkdir(parents=True)
    try:
        make(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_demo(demo: DemoModel, partial: Path, console: Console) -> None:
    source = partial / "source.gguf"
    with _progress(console) as progress:
        task = progress.add_task(f"Fetching {demo.title}", total=NUM_STAGES)
        demo.fetch(source)
        _convert(source, partial, demo.dtype, lambda stage: _advance(progress, task, stage))
        progress.update(task, completed=NUM_STAGES)
    source.unlink()


def _make_gguf(source: Path, partial: Path, console: Console) -> None:
    if find_spec("gguf") is None:
        raise ModelUnavailable("--model: a .gguf file needs pip install 'lookahead-serving[gguf]'")
    with _progress(console) as progress:
        task = progress.add_task(f"Converting {source.name}", total=NUM_STAGES)
        _convert(source, partial, FILES_OWN, lambda stage: _advance(progress, task, stage))
        progress.update(task, completed=NUM_STAGES)


def _convert(source: Path, partial: Path, dtype: str, say: Callable[[str], None]) -> None:
    """Run the conversion in a child and say its stages."""
    command = [*CONVERTER, str(source), str(partial), dtype]
    log_path = partial / LOG
    with (
        log_path.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        try:
            assert child.stdout is not None, "stdout is a pipe"
            for line in child.stdout:
                say(line.strip())
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise ModelUnavailable(f"the conversion failed: {_last_line(log_path)}")
    log_path.unlink()


def _advance(progress: Progress, task: TaskID, stage: str) -> None:
    progress.update(task, advance=1, description=stage)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description:<30}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("[dim]first run only"),
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
