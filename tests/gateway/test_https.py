"""HTTPS: today's certificates are shown, and clients who never shake hands cost little."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.topologies.server import wait_until
from tests.support.servers.certificates import Authority
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host

pytestmark = pytest.mark.system  # the openssl command makes the certificates

BODY = {"prompt": "once", "stream": True}


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


@pytest.fixture
def front(loop: Host, authority: Authority) -> Iterator[str]:
    files = authority.sign("gateway")
    settings = {"https_cert": files.cert, "https_key": files.key, "header_timeout_s": 1.0}
    with serving(FakeVerifier()) as address, loop.holding(gateway(address, **settings)) as front:
        yield front.replace("127.0.0.1", "localhost")


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))


def serial(front: str, authority: Authority) -> str:
    """The number of the certificate that the gateway shows."""
    hostname, _, port = front.rpartition(":")
    with (
        socket.create_connection((hostname, int(port)), timeout=10) as plain,
        trusting(authority).wrap_socket(plain, server_hostname=hostname) as wrapped,
    ):
        shown = wrapped.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def test_a_client_that_trusts_the_authority_is_answered_and_streamed_to(
    front: str, authority: Authority
) -> None:
    with httpx.Client(base_url=f"https://{front}", verify=trusting(authority)) as client:
        assert client.get("/health").status_code == 200
        text = client.post("/v1/completions", json=BODY).text
    assert text.endswith("data: [DONE]\n\n")


def test_a_client_that_does_not_trust_it_or_speaks_plain_http_is_not(front: str) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://{front}/health", verify=ssl.create_default_context())
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{front}/health")


def test_a_renewed_certificate_is_shown_without_a_restart(front: str, authority: Authority) -> None:
    before = serial(front, authority)
    authority.sign("gateway")  # writes the same files
    wait_until(lambda: serial(front, authority) != before, 60.0)


def test_connections_that_never_shake_hands_keep_nobody_out_and_are_let_go(
    front: str, authority: Authority
) -> None:
    hostname, _, port = front.rpartition(":")
    silent = [socket.create_connection((hostname, int(port))) for _ in range(50)]
    try:
        with httpx.Client(base_url=f"https://{front}", verify=trusting(authority)) as client:
            assert client.get("/health").status_code == 200
        for connection in silent:
            connection.settimeout(10)
            assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()
