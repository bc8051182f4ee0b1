"""TLS of the command line's connections: given once, before the command, or by the environment."""

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


def choose_tls(tls_ca: Ca = None, tls_cert: Cert = None, tls_key: Key = None) -> None:
    """Serve a language model faster, with exactly the words it would have said anyway."""
    try:
        files = TlsFiles(ca=str(tls_ca or ""), cert=str(tls_cert or ""), key=str(tls_key or ""))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _CHOSEN.set(files if files != TlsFiles() else None)


def tls() -> TlsFiles | None:
    """What the running command connects with; None: plaintext."""
    return _CHOSEN.get()
