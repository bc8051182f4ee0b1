"""TLS with real certificates: who gets in, who does not, and renewal while serving."""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from drafter.config import DrafterConfig
from lookahead import AsyncClient, Client
from lookahead.client.errors import LookaheadError
from protos.drafter_pb2_grpc import DrafterServiceServicer, add_DrafterServiceServicer_to_server
from rpc.server import RpcServer
from rpc.tls import TlsFiles
from tests.support.servers.certificates import Authority
from tests.support.servers.running_drafter import NEXT, START, TEXT, TIMEOUT_S, drafter
from tests.support.waiting import eventually
from verifier.config import VerifierConfig
from verifier.request import Speculation
from verifier.speculation.draft_client import DraftClient

pytestmark = pytest.mark.slow

MAIN = "from lookahead.cli import main; main()"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return authority.sign("service")


@pytest.fixture
async def address(files: TlsFiles) -> AsyncIterator[str]:
    server = RpcServer([])
    add_DrafterServiceServicer_to_server(DrafterServiceServicer(), server.grpc)
    port = await server.start("127.0.0.1:0", files)
    await server.mark_serving()
    yield f"localhost:{port}"
    await server.stop()


async def asked(address: str, tls: TlsFiles | None) -> bool:
    """Ask in another process, as a probe does; this one's event loop has to serve meanwhile."""
    options = [f"--{name}={getattr(tls, name)}" for name in ("ca", "cert", "key")] if tls else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rpc.health", address, *options, stderr=subprocess.DEVNULL
    )
    return await process.wait() == 0


async def test_only_those_with_a_certificate_of_the_authority_get_in(
    address: str, files: TlsFiles, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other", "other").sign("stranger")
    assert await asked(address, files)
    assert not await asked(address, None)
    assert not await asked(address, TlsFiles(ca=files.ca))
    assert not await asked(address, TlsFiles(ca=files.ca, cert=stranger.cert, key=stranger.key))
    assert not await asked(address, stranger)  # which trusts another authority


async def test_a_server_for_another_name_is_not_believed(authority: Authority) -> None:
    server = RpcServer([])
    port = await server.start("127.0.0.1:0", authority.sign("elsewhere", "elsewhere"))
    await server.mark_serving()
    try:
        assert not await asked(f"localhost:{port}", authority.sign("caller"))
    finally:
        await server.stop()


async def test_a_renewed_certificate_is_served_without_a_restart(
    address: str, files: TlsFiles, authority: Authority
) -> None:
    before = await _served_certificate(address, files)
    renewed = authority.sign("renewed")
    _renew(files, renewed)
    after = await _served_certificate(address, files)
    assert before != after == ssl.PEM_cert_to_DER_cert(Path(renewed.cert).read_text())
    assert await asked(address, renewed)


async def test_certificates_that_ran_out_are_not_believed_until_they_are_renewed(
    authority: Authority,
) -> None:
    server, late, client = RpcServer([]), authority.sign("late", days=-1), authority.sign("client")
    port = await server.start("127.0.0.1:0", late)
    await server.mark_serving()
    try:
        assert not await asked(f"localhost:{port}", client)
        _renew(late, authority.sign("renewed"))
        assert await asked(f"localhost:{port}", client)
        assert not await asked(f"localhost:{port}", authority.sign("gone", days=-1))
    finally:
        await server.stop()


def _renew(files: TlsFiles, renewed: TlsFiles) -> None:
    for old, new in ((files.key, renewed.key), (files.cert, renewed.cert)):
        shutil.copy(new, old)
        os.utime(old, ns=(1, 1))  # another time than before, however fast this goes


async def test_half_a_renewal_keeps_the_old_certificate(
    address: str, files: TlsFiles, authority: Authority
) -> None:
    before = await _served_certificate(address, files)
    client = authority.sign("client")
    Path(files.cert).unlink()
    assert await _served_certificate(address, client) == before


async def _served_certificate(address: str, client: TlsFiles) -> bytes:
    context = ssl.create_default_context(cafile=client.ca)
    context.load_cert_chain(client.cert, client.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return bytes(certificate)


@pytest.mark.usefixtures("compiled_kernels")
async def test_a_verifier_drafts_over_mutual_tls(files: TlsFiles) -> None:
    async with drafter(tls=files) as served:
        address = served.address.replace("127.0.0.1", "localhost")
        drafts = DraftClient([address], vocabulary="v", vocabulary_size=100, tls=files)
        drafts.start()
        try:
            await eventually(lambda: drafts.is_connected)
            drafts.open(1, [*TEXT, *START], len(TEXT), Speculation())
            drafts.request({1: 4})
            await asyncio.to_thread(drafts.wait, TIMEOUT_S)
            assert list(drafts.tree(1).token_ids) == NEXT
        finally:
            await drafts.stop()


async def test_a_verifier_outlives_certificates_that_it_cannot_read(
    address: str, files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="verifier.speculation.drafter_connection")
    hidden = tmp_path / "later.crt"
    drafts = DraftClient(
        [address],
        vocabulary="v",
        vocabulary_size=10,
        tls=TlsFiles(ca=str(hidden), cert=files.cert, key=files.key),
    )
    drafts.start()
    try:
        await eventually(lambda: "later.crt" in caplog.text)
        shutil.copy(files.ca, hidden)
        await eventually(lambda: drafts.is_connected)
    finally:
        await drafts.stop()


async def test_both_clients_call_by_tls(address: str, files: TlsFiles) -> None:
    async with AsyncClient(address, tls=files) as client:
        with pytest.raises(LookaheadError, match="not found"):
            await client.model()  # this server has no such call, but it answered
    with Client(address, tls=files) as plain, pytest.raises(LookaheadError, match="not found"):
        await asyncio.to_thread(plain.model)


async def test_the_command_line_calls_by_tls(address: str, files: TlsFiles) -> None:
    async def stats(*options: str, **environ: str) -> tuple[int, str]:
        command = [sys.executable, "-c", MAIN, *options, "trie", "list"]
        process = await asyncio.create_subprocess_exec(
            *command,
            "--drafter",
            address,
            env=os.environ | environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, errors = await process.communicate()
        return process.returncode or 0, errors.decode()

    options = [f"--tls-{name}={getattr(files, name)}" for name in ("ca", "cert", "key")]
    # The server does nothing but fail: whoever hears that has got in.
    assert "the server's log has it" in (await stats(*options))[1]
    environ = {f"LOOKAHEAD_TLS_{n.upper()}": getattr(files, n) for n in ("ca", "cert", "key")}
    assert "the server's log has it" in (await stats(**environ))[1]
    assert "the server's log has it" not in (await stats())[1]
    status, errors = await stats(f"--tls-cert={files.cert}")
    assert status == 2 and "need each other" in errors
    status, errors = await stats("--tls-ca=/no/such/file")
    assert status == 2 and "/no/such/file" in errors and "Traceback" not in errors


def test_settings_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(ValidationError, match="tls_key"):
        DrafterConfig(tls_cert="a.crt")
    with pytest.raises(ValidationError, match="tls_ca"):
        VerifierConfig(model="m", tls_ca="ca.crt")


async def test_a_missing_certificate_ends_the_start_by_name() -> None:
    with pytest.raises(OSError, match=r"none\.key"):
        await RpcServer([]).start("127.0.0.1:0", TlsFiles(cert="none.crt", key="none.key"))
