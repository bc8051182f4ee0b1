"""One stack for all clients, on the instruct model."""

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import resolve_model
from lookahead.stack.stack import NO_REDIS, StackConfig, running

# Agents' first prompts are longer than the default.
MAX_CONTEXT = "8192"


@dataclass(frozen=True, slots=True)
class Served:
    """A running stack as clients see it."""

    url: str
    model: str
    model_folder: Path

    @property
    def arguments(self) -> list[str]:
        """What each program is told."""
        return [self.url, self.model, str(self.model_folder)]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All services with a gateway on a port of this machine."""
    folder = tmp_path_factory.mktemp("models") / DEMO
    link_greedy(Path(resolve_model(DEMO, Console(stderr=True))), folder)
    config = StackConfig.apart(
        str(folder),
        tmp_path_factory.mktemp("stack"),
        environ=os.environ | {"LOOKAHEAD_VERIFIER_MAX_CONTEXT": MAX_CONTEXT},
        redis=NO_REDIS,
        gateway_address=f"127.0.0.1:{free_port()}",
    )
    with running(config):
        url = f"http://{config.gateway_address}"
        with urllib.request.urlopen(f"{url}/v1/models") as answer:
            (model,) = json.load(answer)["data"]
        yield Served(url, model["id"], folder)


def link_greedy(model: Path, folder: Path) -> None:
    """Make a folder of the model that recommends no sampling: answers are then always the same.

    Some clients, such as Codex, cannot be told a temperature.
    """
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    recommended = folder / "generation_config.json"
    settings = json.loads(recommended.read_text()) | {"temperature": 0.0}
    recommended.unlink()
    recommended.write_text(json.dumps(settings))


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
