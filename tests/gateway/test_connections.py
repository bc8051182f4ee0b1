"""Connections that send half a request, nothing, or read nothing: what they cost others."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest

from lookahead.gateway import process
from lookahead.gateway.connections import Connections, owner
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host

DEADLINE_S = 10.0
HALF_HEAD = b"GET /health HTTP/1.1\r\nhost: a\r\n"
HALF_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b"content-length: 100\r\n\r\n{"
)
UNREAD_BODY = b"GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"
HEALTH = HALF_HEAD + b"\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


@contextmanager
def front(loop: Host, servicer: FakeVerifier | None = None, **settings: Any) -> Iterator[str]:
    with (
        serving(servicer or FakeVerifier()) as address,
        loop.holding(gateway(address, **settings)) as where,
    ):
        yield where


@contextmanager
def connected(where: str, sent: bytes = b"") -> Iterator[socket.socket]:
    name, _, port = where.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(sent)
        yield connection


def received(connection: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (HALF_HEAD, b"HTTP/1.1 408"),
        (HALF_BODY, b"HTTP/1.1 408"),
        (UNREAD_BODY, b"HTTP/1.1 200"),
        (HEALTH, b"HTTP/1.1 200"),
        (HEALTH + HALF_HEAD, b"HTTP/1.1 200"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
    ],
)
def test_a_client_that_does_not_go_on_is_let_go(loop: Host, sent: bytes, answer: bytes) -> None:
    limits = {"header_timeout_s": 0.3, "read_timeout_s": 0.3, "idle_timeout_s": 1}
    with front(loop, **limits) as where, connected(where, sent) as connection:
        found = received(connection)
    assert found.startswith(answer)
    assert bool(found) == bool(answer)


def test_bytes_one_by_one_win_no_time(loop: Host) -> None:
    with front(loop, header_timeout_s=0.5) as where, connected(where) as connection:
        connection.settimeout(0.02)
        deadline = time.monotonic() + DEADLINE_S
        found = b""
        while not found:
            assert time.monotonic() < deadline, "each byte begins the time anew"
            connection.sendall(b"a")
            with suppress(TimeoutError):
                found = connection.recv(100)
    assert found.startswith(b"HTTP/1.1 408")


def test_an_answer_that_nobody_reads_is_dropped(loop: Host) -> None:
    """However it was sent: whole, as a file, as the last one of its connection."""
    many = b"GET /view/index.html HTTP/1.1\r\nhost: a\r\n\r\n" * 300
    with (
        front(loop, write_timeout_s=0.3) as where,
        connected(where) as connection,
    ):
        connection.setblocking(False)
        sent = connection.send(many)
        assert sent > 1000
        with httpx.Client(base_url=f"http://{where}") as client:
            deadline = time.monotonic() + DEADLINE_S
            while "connections 1.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline, "the unread connection is still there"
                time.sleep(0.02)


def test_half_sent_requests_make_room_for_others(loop: Host) -> None:
    limits = {"max_connections": 40, "max_connections_per_address": 20}
    with front(loop, **limits) as where, ExitStack() as stack:
        for i in range(60):
            stack.enter_context(connected(where, (b"", HALF_HEAD, HALF_BODY)[i % 3]))
            with connected(where, HALF_HEAD + b"connection: close\r\n\r\n") as probe:
                assert received(probe).startswith(b"HTTP/1.1 200")


def test_requests_being_answered_make_no_room(loop: Host) -> None:
    servicer = FakeVerifier(pause_s=0.02)
    body = b'{"prompt": "forever", "stream": true}'
    head = HALF_BODY.partition(b"content-length")[0]
    request = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    with front(loop, servicer, max_connections_per_address=2) as where, ExitStack() as stack:
        streams = [stack.enter_context(connected(where, request)) for _ in range(2)]
        for stream in streams:
            assert stream.recv(12) == b"HTTP/1.1 200"
        with connected(where) as late:
            assert received(late).startswith(b"HTTP/1.1 503")
        for stream in streams:
            assert stream.recv(1 << 16)


def test_who_holds_most_makes_room_when_all_places_are_taken() -> None:
    class Held:
        def __init__(self, name: str) -> None:
            self.name = name
            self.is_dropped = False

        def drop(self) -> None:
            self.is_dropped = True
            counted.remove(self, self.name)

    counted = Connections(limit=4, limit_per_address=4)
    greedy = [Held("a") for _ in range(3)]
    single = Held("b")
    for connection in (*greedy, single):
        assert counted.admit(connection.name)
        counted.add(connection, connection.name)
    counted.work(greedy[0], "a")
    assert counted.admit("c")
    assert [held.is_dropped for held in (*greedy, single)] == [False, True, False, False]
    assert len(counted) == 3
    assert counted.num_refused == 1


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_whose_addresses_count_as_one(first: str, second: str, is_same: bool) -> None:
    assert (owner(first) == owner(second)) is is_same


def test_a_gateway_out_of_descriptors_waits_and_goes_on(
    loop: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "ACCEPT_RETRY_S", 0.3)
    accept = loop.loop.sock_accept
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 2)

    async def scarce(listening: socket.socket) -> Any:
        for error in failures:
            raise error
        return await accept(listening)

    monkeypatch.setattr(loop.loop, "sock_accept", scarce)
    with front(loop) as where:
        start = time.monotonic()
        with connected(where, HALF_HEAD + b"connection: close\r\n\r\n") as probe:
            assert received(probe).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - start > 0.2
    assert caplog.text.count("accept_failed") == 2


def test_a_client_that_hangs_up_in_its_body_leaves_one_line(
    loop: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with front(loop) as where:
        with connected(where, HALF_BODY):
            pass
        deadline = time.monotonic() + DEADLINE_S
        while "request_end" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [r.getMessage() for r in caplog.records if "status=499" in r.getMessage()]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_credentials_that_are_no_text_are_refused(loop: Host) -> None:
    head = HEALTH.replace(b"/health", b"/v1/models").removesuffix(b"\r\n")
    with front(loop, keys={"key": "acme"}) as where:
        for given in (b"Basic caf\xe9", b"Basic \xff\xfe", b"Bearer \xc3\xa9", b"Basic YQ=\xe9"):
            with connected(
                where, head + b"authorization: " + given + b"\r\nconnection: close\r\n\r\n"
            ) as client:
                assert received(client).startswith(b"HTTP/1.1 401")
