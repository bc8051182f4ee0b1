"""How the command line connects: given once, before the command, or by the environment."""

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from rpc.tls import TlsFiles


def _pem(name: str, what: str) -> Any:
    return typer.Option(
        f"--tls-{name}",
        envvar=f"LOOKAHEAD_TLS_{name.upper()}",
        exists=True,
        dir_okay=False,
        help=f"PEM file: {what}.",
    )


Ca = Annotated[Path | None, _pem("ca", "authority of the servers")]
Cert = Annotated[Path | None, _pem("cert", "own certificate, if required")]
Key = Annotated[Path | None, _pem("key", "its key")]

_CHOSEN: ContextVar[TlsFiles | None] = ContextVar("tls", default=None)


def choose_tls(ca: Path | None, cert: Path | None, key: Path | None) -> None:
    """Connect with these files from now on; BadParameter where one of them lacks another."""
    try:
        files = TlsFiles(ca=str(ca or ""), cert=str(cert or ""), key=str(key or ""))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _CHOSEN.set(files if files != TlsFiles() else None)


def api_key() -> str | None:
    """The API key that the environment names; a command line could be read by others."""
    return os.environ.get("LOOKAHEAD_API_KEY") or None


def tls() -> TlsFiles | None:
    """What the running command connects with; None: plaintext."""
    return _CHOSEN.get()
