"""A client's own environment under the user's cache, made once with pinned packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from uv import find_uv_bin

from lookahead.stack.model_cache import cache_directory, locked
from tests.clients.table import AS_OF, Client

MARKER = "installed.txt"  # what was installed, once all of it was
INSTALL_S = 600


class ClientUnavailable(RuntimeError):
    """A client cannot be installed; says why."""


def folder_of(client: Client) -> Path:
    """Where the client lies, or will."""
    return cache_directory() / "clients" / client.folder_name


def install(client: Client) -> None:
    """Install everything where that was never finished."""
    folder = folder_of(client)
    pins = "\n".join([AS_OF, *client.from_pip, *client.npm])
    marker = folder / MARKER
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not marker.exists() or marker.read_text() != pins:
            shutil.rmtree(folder, ignore_errors=True)
            _install(client, folder)
            marker.write_text(pins)


def environ_of(folder: Path) -> Mapping[str, str]:
    """The environment's commands first, and none of this checkout's modules."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    commands = [folder / "bin", folder / "node_modules" / ".bin"]
    path = os.pathsep.join([*map(str, commands), kept.get("PATH", "")])
    # What pip may take from this disk uv may take, too: PyTorch without its gigabytes for GPUs.
    links = {"UV_FIND_LINKS": kept["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in kept else {}
    return kept | links | {"PATH": path, "VIRTUAL_ENV": str(folder)}


def _install(client: Client, folder: Path) -> None:
    uv = find_uv_bin()
    _run([uv, "venv", "-q", "--python", sys.executable, str(folder)], folder)
    target = ["--python", str(folder / "bin" / "python")]
    _run([uv, "pip", "install", "-q", *target, "--exclude-newer", AS_OF, *client.from_pip], folder)
    if client.npm:
        options = ["--prefix", str(folder), "--no-audit", "--no-fund"]
        _run(["npm", "install", *options, *client.npm], folder)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, env=environ_of(folder), capture_output=True, text=True, timeout=INSTALL_S
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ClientUnavailable(f"cannot be installed: {' '.join(said[:6])}")
