"""TLS of the command line's connections: given once, before the command, or by the environment."""

from contextvars import ContextVar
from typing import Annotated

import typer

from rpc.tls import TlsFiles

Ca = Annotated[
    str,
    typer.Option("--tls-ca", envvar="LOOKAHEAD_TLS_CA", help="PEM file: who signs the servers."),
]
Cert = Annotated[
    str,
    typer.Option("--tls-cert", envvar="LOOKAHEAD_TLS_CERT", help="PEM file: yours, if asked for."),
]
Key = Annotated[
    str, typer.Option("--tls-key", envvar="LOOKAHEAD_TLS_KEY", help="PEM file: its key.")
]

_CHOSEN: ContextVar[TlsFiles | None] = ContextVar("tls", default=None)


def choose_tls(tls_ca: Ca = "", tls_cert: Cert = "", tls_key: Key = "") -> None:
    """Serve a language model faster, with exactly the words it would have said anyway."""
    try:
        files = TlsFiles(ca=tls_ca, cert=tls_cert, key=tls_key)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _CHOSEN.set(files if files != TlsFiles() else None)


def tls() -> TlsFiles | None:
    """What the running command connects with; None: plaintext."""
    return _CHOSEN.get()
