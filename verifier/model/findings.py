"""What was found out about a model on this machine, kept in the user's cache for the next start."""

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from verifier.model.model import TargetModel

OURS = Path(__file__).parents[1]  # the code that passes are made by


class Findings:
    """Entries by what they depend on. A damaged file only means finding out again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> dict[str, Any]:
        """What is known; empty where nothing is."""
        return _entry(self._read(), key)

    def put(self, key: str, **found: object) -> None:
        """Remember more."""
        entries = self._read()
        entries[key] = _entry(entries, key) | found
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(entries))
            temporary.replace(self._path)
        except OSError:
            return  # a read-only cache only means that the next start finds out again

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _entry(entries: dict[str, Any], key: str) -> dict[str, Any]:
    entry = entries.get(key)
    return entry if isinstance(entry, dict) else {}


def cache_path() -> Path:
    """Where findings are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "lookahead" / "models.json"


def key_of(model: TargetModel) -> str:
    """All that the times and bits of a model's passes depend on."""
    parts = (
        model.fingerprint,
        model.variant,
        f"{model.device} x{model.num_processes} {_device_name(model.device)}",
        platform.node(),
        str(torch.get_num_threads()),
        str(os.cpu_count()),
        torch.__version__,
        version("transformers"),
        f"{model.attention} over {model.max_context}",
        _code(),
    )
    return "/".join(parts)


def _device_name(device: torch.device) -> str:
    """Which card it is, and what drives it: a pod may find another one at its next start."""
    if device.type != "cuda":
        return ""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"{torch.cuda.get_device_name(device)} cuda {torch.version.cuda} cudnn {cudnn}"


@cache
def _code() -> str:
    """A hash of our own code: another version may be faster, or round otherwise."""
    found = hashlib.sha256()
    for folder in ("cache", "kernels", "model"):
        for path in sorted((OURS / folder).glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]
