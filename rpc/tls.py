"""TLS for our servers and their clients, from PEM files that may be renewed at any time.

A server reads its files again when they change, so a renewed certificate needs no restart; a client
reads them whenever it opens a channel.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from rpc.followed import Followed

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; ValueError where they do not fit together.

    `ca`: who must have signed the other side's certificate. `cert` and `key`: one's own identity,
    always needed by servers, and by clients of servers that name a `ca`.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError(f"tls_cert = {self.cert!r} and tls_key = {self.key!r} need each other")

    @property
    def paths(self) -> list[str]:
        """The files that there are."""
        return [path for path in (self.ca, self.cert, self.key) if path]


def server_files(*, cert: str, key: str, ca: str) -> TlsFiles | None:
    """Return what a server's three settings mean; None: plaintext. ValueError names a lone CA."""
    if ca and not cert:
        raise ValueError(f"tls_ca = {ca!r} needs tls_cert and tls_key")
    return TlsFiles(ca=ca, cert=cert, key=key) if cert else None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Read the files, now and after each change; OSError where one cannot be read at first."""
    renewal = _Renewal(files)
    return grpc.dynamic_ssl_server_credentials(
        renewal.given, renewal, require_client_authentication=bool(files.ca)
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Read a client's files; without `ca`, the authorities this system trusts."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(files.ca),
        private_key=_read(files.key),
        certificate_chain=_read(files.cert),
    )


def open_channel(address: str, tls: TlsFiles | None, options: Options) -> grpc.Channel:
    """Open a channel for plain code; plaintext without `tls`."""
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(tls), options=options)


def open_async_channel(address: str, tls: TlsFiles | None, options: Options) -> grpc.aio.Channel:
    """Open a channel for asyncio; plaintext without `tls`."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


class HttpsContext:
    """What a server of HTTP shows its clients; OSError where a file cannot be read at first."""

    def __init__(self, files: TlsFiles) -> None:
        self._context = Followed("certificates", files.paths, lambda: _ssl_context(files))

    def current(self) -> ssl.SSLContext:
        """The context for a new connection, of the files as they are now."""
        return self._context.current()


def _ssl_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(files.cert, files.key)
    return context


class _Renewal:
    """Called by gRPC at each handshake: the certificates if they changed, None if not."""

    def __init__(self, files: TlsFiles) -> None:
        self._certificates = Followed("certificates", files.paths, lambda: _certificates(files))
        self.given = self._certificates.current()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        before, self.given = self.given, self._certificates.current()
        return None if self.given is before else self.given


def _certificates(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    pair = (_read(files.key), _read(files.cert))
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=_read(files.ca))


def _read(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
