"""Clients that send half of something, nothing, or read nothing: others are served as before."""

import json
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.target import HOSTILE, POLITE, Target, target
from bench.chaos.witness import MAX_TOKENS as WITNESS_TOKENS
from bench.chaos.witness import Witness, others, witness
from bench.serving.figures import Figure
from bench.topologies.server import wait_until
from protos import verifier_pb2 as pb
from protos.verifier_pb2_grpc import VerifierServiceStub

SECTION = "clients that do not go on"
NUM_UNREAD, NUM_HALF, NUM_WATCHES = 256, 2000, 400
MEASURED_S = 10.0
MAX_TOKENS = 150
SETTLE_S = 90.0
NUM_QUIET = 20  # looks in a row between which nobody but the witness got tokens
# Longer than all this takes: what is measured is holding them, not letting go of them.
PATIENCE = {
    "LOOKAHEAD_GATEWAY_WRITE_TIMEOUT_S": "600",
    "LOOKAHEAD_GATEWAY_HEADER_TIMEOUT_S": "600",
    "LOOKAHEAD_GATEWAY_READ_TIMEOUT_S": "600",
    "LOOKAHEAD_VERIFIER_WRITE_TIMEOUT_S": "600",
    "LOOKAHEAD_VERIFIER_MAX_UNREAD_TOKENS": "64",
}
HEALTH_MS, SLOWER, MORE_MB = 100.0, 1.1, 100.0
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %s\r\n" % HOSTILE.encode()
)
# Nothing, half a head, half a body, and a connection that has been served and waits.
PIECES = (
    b"",
    HEAD,
    HEAD + b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{",
    b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n",
)
# A window that a few messages fill.
SMALL_WINDOW = [
    ("grpc.http2.lookahead_bytes", 1024),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def silent(share: float = 1.0) -> list[Figure]:
    """Measure calm, then with all of them there; `share` of their full numbers."""
    unread, half, watches = (max(int(share * n), 4) for n in (NUM_UNREAD, NUM_HALF, NUM_WATCHES))
    with target(PATIENCE) as stack, witness(stack.http, POLITE) as polite:
        polite.calm()
        start = polite.mark()
        time.sleep(MEASURED_S)
        calm, before_mb = polite.seen(start), _resident_mb(stack)
        with _unread(stack, unread), _half_sent(stack, half), _watching(stack, watches):
            _wait_until_paused(stack, polite)
            start = polite.mark()
            time.sleep(MEASURED_S)
            polite.wait_for(2, start)
            seen, after_mb = polite.seen(start), _resident_mb(stack)
    slower = statistics.median(seen.token_ms) / statistics.median(calm.token_ms)
    return [
        Figure(SECTION, "streams that are not read", unread, ""),
        Figure(SECTION, "connections half-open or idle", half, ""),
        Figure(SECTION, "health watches", watches, ""),
        Figure(SECTION, "/health, p99", seen.health_p99_ms, "ms", at_most=HEALTH_MS),
        Figure(SECTION, "/health, p99 before", calm.health_p99_ms, "ms"),
        Figure(SECTION, "time per token of others over before", slower, at_most=SLOWER),
        Figure(SECTION, "memory of all processes", after_mb - before_mb, "MB", at_most=MORE_MB),
        *others(SECTION, seen, polite.text),
    ]


def _resident_mb(stack: Target) -> float:
    return sum(stack.resident_mb(name) for name in ("verifier", "gateway", "drafter"))


def _wait_until_paused(stack: Target, polite: Witness) -> None:
    """Wait until the streams that nobody reads are made no longer: till then they are a load."""
    tokens: deque[float] = deque(maxlen=NUM_QUIET)  # of all others

    def is_paused() -> bool:
        whole = stack.reading("verifier").value("generation_tokens_total")
        tokens.append(whole - WITNESS_TOKENS * polite.seen().num_answers)
        # An answer to the witness is counted token by token, and by itself only when it is whole.
        return len(tokens) == NUM_QUIET and max(tokens) - min(tokens) <= 2 * WITNESS_TOKENS

    wait_until(is_paused, SETTLE_S, step_s=0.1)


@contextmanager
def _unread(stack: Target, number: int) -> Iterator[None]:
    """Half of them by HTTP, half by gRPC; each has read its first bytes, or waits for them."""
    body = json.dumps({"prompt": "a", "max_tokens": MAX_TOKENS, "stream": True}).encode()
    head = HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with ExitStack() as exits:
        for index in range(number):
            if index % 2:
                exits.enter_context(_connected(stack, head + body))
            else:
                exits.enter_context(_unread_call(stack, index))
        yield


@contextmanager
def _unread_call(stack: Target, index: int) -> Iterator[None]:
    options = [*SMALL_WINDOW, ("grpc.primary_user_agent", f"unread-{index % 8}")]
    with grpc.insecure_channel(stack.grpc, options) as channel:
        stub: Any = VerifierServiceStub(channel)
        request = pb.GenerateRequest(
            text="a",
            stopping=pb.Stopping(max_tokens=MAX_TOKENS, ignore_eos=True),
            output=pb.Output(logprobs=True, top_logprobs=20),
            account="hostile",
        )
        call = stub.Generate(request, timeout=600)
        try:
            yield
        finally:
            call.cancel()


@contextmanager
def _half_sent(stack: Target, number: int) -> Iterator[None]:
    with ExitStack() as exits:
        for index in range(number):
            exits.enter_context(_connected(stack, PIECES[index % len(PIECES)]))
        yield


@contextmanager
def _connected(stack: Target, sent: bytes) -> Iterator[None]:
    host, port = stack.http.split(":")
    with socket.socket() as connection:
        # Small, so that what is not read does not hide in the system's buffers.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        with suppress(ConnectionError):  # there were too many, and it was let go
            connection.sendall(sent)
        yield


@contextmanager
def _watching(stack: Target, number: int) -> Iterator[None]:
    with grpc.insecure_channel(stack.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(number)]
        try:
            yield
        finally:
            for call in calls:
                call.cancel()
