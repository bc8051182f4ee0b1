"""A certificate authority for tests, and what it signs, by the openssl command."""

import subprocess
from pathlib import Path

from rpc.tls import TlsFiles


class Authority:
    """Signs certificates for localhost into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-days", "1", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca,
        )  # fmt: skip

    def sign(self, name: str, *hosts: str, days: int = 1) -> TlsFiles:
        """Write a key and a certificate for `hosts`, for servers and clients alike.

        It has run out if `days` is negative.
        """
        key, request, certificate = (
            self._folder / f"{name}.{end}" for end in ("key", "csr", "crt")
        )
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request,
        )  # fmt: skip
        extensions = self._folder / f"{name}.ext"
        names = ",".join(f"DNS:{host}" for host in hosts or ("localhost",))
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-days", str(days),
            "-CAcreateserial", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return TlsFiles(ca=str(self.ca), cert=str(certificate), key=str(key))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
