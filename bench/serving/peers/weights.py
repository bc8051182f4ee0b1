"""One set of weights in the forms that the systems load: a checkpoint, and GGUF files of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.serving.peers.environment import peers_directory
from bench.serving.peers.gguf_file import write_dense_gguf
from bench.serving.peers.worker import PeerUnavailable
from lookahead.stack.demo_models import DEMO_MODELS
from lookahead.stack.model_cache import locked, resolve_model


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint and, where it was made of one, how to get the GGUF file it was made of."""

    name: str
    checkpoint: Path
    fetch: Callable[[Path], object] | None

    def gguf(self, dtype: str) -> Path:
        """The same values as a dense GGUF file, written once."""
        if self.fetch is None:
            raise PeerUnavailable(f"no GGUF file of {self.name}")
        target = _gguf_directory() / f"{self.name}-{dtype}.gguf"
        with locked(target.with_suffix(".lock")):
            if not target.exists():
                partial = target.with_suffix(".partial")
                checkpoint = json.loads((self.checkpoint / "config.json").read_text())["dtype"]
                source = _source(self.name, self.fetch)
                write_dense_gguf(source, partial, checkpoint=checkpoint, dtype=dtype)
                partial.rename(target)
        return target


def find_weights(model: str, console: Console) -> Weights:
    """The weights behind a name or a path; those that have a name are made where they are not."""
    checkpoint = Path(resolve_model(model, console))
    demo = DEMO_MODELS.get(model)
    return Weights(checkpoint.name, checkpoint, demo.fetch if demo else None)


def _source(name: str, fetch: Callable[[Path], object]) -> Path:
    source = _gguf_directory() / f"{name}-quantised.gguf"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        partial = source.with_suffix(".partial")
        fetch(partial)
        partial.rename(source)
    return source


def _gguf_directory() -> Path:
    return peers_directory() / "gguf"
