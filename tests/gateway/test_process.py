"""A gateway as a process of its own: light to load, silent about texts, patient when it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from bench.topologies.server import free_port
from lookahead.gateway.probe import is_ready
from lookahead.gateway.process import SEND_BUFFER_BYTES, bind
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, serving
from tests.support.waiting import read_until

pytestmark = pytest.mark.slow

STOP_S = 20.0
CANARY = "xyzzy-canary-42"


@contextmanager
def gateway_process(verifier: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`lookahead gateway`, listening; its log is its output."""
    address = f"127.0.0.1:{free_port()}"
    options = ["--listen", address, "--verifier", verifier]
    environ = {f"LOOKAHEAD_GATEWAY_{name}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", "from lookahead.cli import main; main()", "gateway", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environ},
    )
    try:
        read_until(process, "listening")
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_a_gateway_loads_neither_model_nor_kernels() -> None:
    """Its image holds none of them."""
    heavy = "{'torch', 'transformers', 'numba', 'numpy', 'redis', 'rich', 'typer'}"
    code = f"import sys, lookahead.gateway.__main__; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_streams_end_in_full_while_a_gateway_stops() -> None:
    servicer = FakeVerifier(pause_s=0.05)
    with serving(servicer) as verifier, gateway_process(verifier) as (process, address):
        body = {"prompt": "once", "stream": True, "max_tokens": 60}
        url = f"http://{address}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=STOP_S) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: {")
        assert rest[-1] == "data: [DONE]"
        assert len(rest) == 60 / 5 - 1 + 1 + 1  # runs of five, the end, the mark
        assert process.wait(STOP_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}/health")


def test_what_outlasts_the_drain_ends_with_an_error() -> None:
    servicer = FakeVerifier(pause_s=0.05)
    with (
        serving(servicer) as verifier,
        gateway_process(verifier, DRAIN_S="1") as (process, address),
    ):
        received = last = ""
        url = f"http://{address}/v1/completions"
        body = {"prompt": "forever", "stream": True}
        with ThreadPoolExecutor(1) as other:
            whole = other.submit(httpx.post, url, json={"prompt": "forever"}, timeout=STOP_S)
            with httpx.stream("POST", url, json=body, timeout=STOP_S) as stream:
                for line in stream.iter_lines():
                    if not received and servicer.num_running == 2:
                        process.send_signal(signal.SIGTERM)
                        received += line
                    last = line or last
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("unavailable_error", "gateway_stopping")
        assert whole.result().status_code == 503
        assert whole.result().json() == {"error": error}
        assert process.wait(STOP_S) == 0
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()
        assert servicer.was_cancelled.wait(STOP_S)


def test_the_log_has_a_line_for_each_request_and_no_text_of_any() -> None:
    with (
        serving(FakeVerifier()) as verifier,
        gateway_process(verifier, LOG_LEVEL="DEBUG") as (
            process,
            address,
        ),
    ):
        with httpx.Client(base_url=f"http://{address}", timeout=STOP_S) as client:
            headers = {"x-request-id": "id-7", "authorization": f"Bearer {CANARY}"}
            fields = {"user": CANARY, "stop": CANARY, "cache_salt": CANARY}
            for stream in (True, False):
                body = {"prompt": CANARY, "stream": stream, **fields}
                client.post("/v1/completions", json=body, headers=headers)
            client.post("/v1/completions", json={"prompt": CANARY, CANARY: CANARY})
            client.post("/v1/completions", json={"prompt": "bad text " + CANARY})
            client.post("/tokenize", json={"prompt": CANARY})
            client.get("/health", params={"q": CANARY})
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=STOP_S)
    assert re.search(
        r"request_end request_id=id-7 method=POST path='/v1/completions' status=200", log
    )
    assert log.count("request_end") == 6
    assert CANARY not in log
    assert ANSWER[:10] not in log


def test_a_probe_tells_whether_a_gateway_is_ready() -> None:
    with serving(FakeVerifier()) as verifier, gateway_process(verifier) as (_, address):
        assert is_ready(address)
        verdict = [sys.executable, "-m", "lookahead.gateway.probe", address]
        assert subprocess.run(verdict).returncode == 0
        port = verifier.rpartition(":")[2]
    assert not is_ready(address)
    with gateway_process(f"127.0.0.1:{port}") as (_, address):
        assert not is_ready(address)
        assert subprocess.run([*verdict[:-1], address]).returncode == 1


def test_an_address_that_is_taken_is_named() -> None:
    with serving(FakeVerifier()) as verifier:
        done = subprocess.run(
            [sys.executable, "-m", "lookahead.gateway"],
            env={**os.environ, "LOOKAHEAD_GATEWAY_LISTEN": verifier},
            capture_output=True,
            text=True,
            timeout=STOP_S,
        )
    assert done.returncode == 1
    assert f"cannot listen on {verifier}" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_sent_goes_out_at_once_and_does_not_pile_up() -> None:
    with bind("127.0.0.1:0") as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 4 * SEND_BUFFER_BYTES


def test_metrics_count_requests_tokens_and_first_tokens() -> None:
    with (
        serving(FakeVerifier()) as verifier,
        gateway_process(verifier) as (_, address),
        httpx.Client(base_url=f"http://{address}", timeout=STOP_S) as client,
    ):
        for _ in range(3):
            client.post("/v1/completions", json={"prompt": "once", "max_tokens": 11})
        client.post("/v1/completions", json={"prompt": 5})
        for path in ("/nowhere", "/else", "/v1/models/a", "/v1/models/b"):
            client.get(path)
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")
    prefix = "lookahead_gateway_"
    expected = {
        'requests_total{code="200",path="/v1/completions"}': 3,
        'requests_total{code="400",path="/v1/completions"}': 1,
        'requests_total{code="404",path="other"}': 2,
        'requests_total{code="404",path="/v1/models/{name:path}"}': 2,
        "requests_running": 1,
        'request_duration_seconds_count{path="/v1/completions"}': 4,
        "time_to_first_token_seconds_count": 3,
        "prompt_tokens_total": 12,
        "generation_tokens_total": 33,
        f'verifier_up{{address="{verifier}"}}': 1,
    }
    assert {name: float(found[prefix + name]) for name in expected} == expected
