"""`lookahead loadtest` against real small servers, and against one of OpenAI's API made up here."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead.cli import main
from lookahead.client.client import Client
from lookahead.loadtest.figures import rows
from lookahead.loadtest.load import Burst
from lookahead.loadtest.prompts import Prompt, read_prompts
from lookahead.loadtest.target import Reply
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host
from tests.support.servers.running_verifier import verifier
from verifier.speculation.tree import EMPTY_TREE, DraftTree

Lookahead = Callable[..., int]
PROMPTS = ["the quick brown fox", "jumps over the lazy dog"]
WORDS = ["one ", "two ", "three ", "four "]


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


class Parrot:
    """Drafts the true continuation of sequences it was told."""

    def __init__(self) -> None:
        self.known: list[list[int]] = []

    def __call__(self, sequence_id: int, so_far: list[int], max_nodes: int) -> DraftTree:
        for ids in self.known:
            ahead = ids[len(so_far) :][: min(4, max_nodes)]
            if ids[: len(so_far)] == so_far and ahead:
                return DraftTree(
                    tuple(ahead), tuple(range(-1, len(ahead) - 1)), (0.9,) * len(ahead)
                )
        return EMPTY_TREE


@pytest.fixture(scope="module")
def served(loop: Host) -> Iterator[tuple[str, str]]:
    """Addresses of a verifier with a small model and of a gateway before it."""
    parrot = Parrot()
    with (
        loop.holding(verifier(parrot)) as (address, _),
        loop.holding(gateway(address)) as front,
        Client(address) as client,
    ):
        for prompt in PROMPTS:
            ids = client.tokenize(prompt)
            said = client.generate(token_ids=ids, max_tokens=24, speculation="off").wait()
            parrot.known.append([*ids, *said.token_ids])
        yield address, f"http://{front}/v1"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """One prompt as a text file, one as a line of JSON."""
    (tmp_path / "one.txt").write_text(PROMPTS[0])
    (tmp_path / "more.jsonl").write_text(json.dumps({"prompt": PROMPTS[1]}) + "\n\n")
    return [str(tmp_path / "one.txt"), str(tmp_path / "more.jsonl")]


@pytest.fixture
def lookahead(monkeypatch: pytest.MonkeyPatch) -> Lookahead:
    """Run a command; return its exit status."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(["loadtest", *arguments])
        return int(caught.value.code or 0)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gRPC", "gateway"])
def test_all_modes_are_measured_and_say_the_same(
    lookahead: Lookahead,
    served: tuple[str, str],
    files: list[str],
    way: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--address", served[0]] if way == "gRPC" else ["--url", served[1]]
    options = ["-n", "24", "-c", "1,3", "--rounds", "2", "--requests", "4", "--json"]
    assert lookahead(*files, *where, *options, "--speculation", "tree") == 0
    document = json.loads(capsys.readouterr().out)
    found = {(row["concurrency"], row["mode"]): row for row in document["rows"]}
    assert list(found) == [(c, mode) for c in (1, 3) for mode in ("plain", "cold", "warm")]
    for (_, mode), row in found.items():
        assert (row["num_requests"], row["num_errors"]) == (8, 0)
        assert row["num_identical"] == row["num_compared"] == (0 if mode == "plain" else 8)
        assert row["tokens_per_second"] > 0
        for spread in ("first_token_ms", "per_token_ms", "end_to_end_ms"):
            assert 0 < row[spread]["p50"] <= row[spread]["p99"]
        assert row["first_token_ms"]["p50"] < row["end_to_end_ms"]["p50"]
        if mode == "plain":
            assert row["tokens_per_step"] == 1
        else:
            assert row["tokens_per_step"] > 2


def test_the_table_explains_its_words(
    lookahead: Lookahead, served: tuple[str, str], files: list[str], capsys: Any
) -> None:
    assert lookahead(*files, "--address", served[0], "-n", "8", "-c", "1", "--rounds", "1") == 0
    output = capsys.readouterr().out
    for word in ("plain: ", "cold: ", "warm: ", "per token: ", "2 of 2", "over plain: "):
        assert word in output


def test_the_picture_is_a_picture(
    lookahead: Lookahead, served: tuple[str, str], files: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "speeds.png"
    options = ["-n", "8", "-c", "1,2", "--rounds", "1", "--no-warm", "--plot", str(path)]
    assert lookahead(*files, "--address", served[0], *options) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_without_matplotlib_the_picture_is_refused_before_anything_runs(
    lookahead: Lookahead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookahead.loadtest.figures.find_spec", lambda name: None)
    assert lookahead("--plot", "x.png", "--address", "127.0.0.1:1") == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_cold_and_plain_requests_never_meet_a_memory_that_knows_them(
    lookahead: Lookahead, files: list[str]
) -> None:
    servicer = FakeVerifier()
    with serving(servicer) as address:
        assert lookahead(*files, "--address", address, "-c", "1", "--rounds", "2") == 0
    asked = [request.speculation for request in servicer.requests]
    learned = {r.namespace for r in asked if r.learn == r.LEARNING_ALL}
    assert len(learned) == 1
    cold = [r for r in asked if r.learn == r.LEARNING_NONE and r.mode == r.MODE_AUTO]
    warm = [r for r in cold if r.namespace in learned]
    assert len(cold) == 8 and len(warm) == 4
    bursts = [{r.namespace for r in cold if r not in warm}, {r.namespace for r in warm}]
    assert [len(namespaces) for namespaces in bursts] == [2, 1]
    assert all(r.namespace not in learned for r in asked if r.mode == r.MODE_OFF)


def test_texts_that_differ_are_counted_and_fail_the_command(
    lookahead: Lookahead,
    files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "tests.support.servers.fake_verifier._text",
        lambda request: f"mode {request.speculation.mode} says so",
    )
    with serving(FakeVerifier()) as address:
        assert lookahead(*files, "--address", address, "-c", "1", "--rounds", "1", "--json") == 1
    cold = json.loads(capsys.readouterr().out)["rows"][1]
    assert (cold["num_compared"], cold["num_identical"]) == (2, 0)


class Server(BaseHTTPRequestHandler):
    """Four words, then usage; refuses "bad" prompts; knows nothing of drafts."""

    bodies: list[dict[str, Any]]
    keys: list[str]

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "other"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        self.keys.append(self.headers.get("authorization", ""))
        if body.get("prompt") == "bad":
            self.send_error(503, "too busy")
            return
        chunks: list[dict[str, Any]] = [{"choices": [{"text": word}]} for word in WORDS]
        if "messages" in body:
            chunks = [{"choices": [{"delta": {"content": word}}]} for word in WORDS]
        chunks.append({"choices": [], "usage": {"completion_tokens": 4}})
        lines = [*map(json.dumps, chunks), "[DONE]"]
        self._send("text/event-stream", "".join(f"data: {line}\n\n" for line in lines))

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def other() -> Iterator[tuple[str, type[Server]]]:
    """The URL of a server that is none of ours, and what it was asked."""
    kind = type("Recording", (Server,), {"bodies": [], "keys": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", kind
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("chat", [False, True])
def test_any_openai_server_is_measured_as_it_is(
    lookahead: Lookahead,
    other: tuple[str, type[Server]],
    files: list[str],
    chat: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, server = other
    options = ["--url", url, "--api-key", "k", "-c", "2", "--rounds", "1", "--json"]
    assert lookahead(*files, *options, *(["--chat"] if chat else [])) == 0
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert (row["mode"], row["num_requests"], row["gain"]) == ("as served", 2, None)
    assert row["tokens_per_step"] is None
    assert all("lookahead" not in body and body["model"] == "other" for body in server.bodies)
    assert set(server.keys) == {"Bearer k"}
    said = [body["messages"][0]["content"] if chat else body["prompt"] for body in server.bodies]
    assert set(said) == set(PROMPTS)


def test_failed_requests_are_counted_shown_and_fail_the_command(
    lookahead: Lookahead,
    other: tuple[str, type[Server]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"fine"\n"bad"\n')
    assert lookahead(str(path), "--url", other[0], "-c", "2", "--rounds", "2") == 1
    output = capsys.readouterr().out
    assert re.search(r"as served .* 2 *$", output, re.MULTILINE)
    assert "error: POST /v1/completions: 503" in output


def test_a_server_that_is_not_there_is_named(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("--url", "http://127.0.0.1:1/v1") == 1
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "not JSON"), ('{"text": 3}', "want a string"), ('{"messages": [{}]}', "want a string")],
)
def test_a_line_that_is_no_prompt_is_named(
    lookahead: Lookahead,
    tmp_path: Path,
    line: str,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'"fine"\n{line}\n')
    assert lookahead(str(path)) == 2
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert "p.jsonl:2" in said.replace(" ", "") and complaint in said


@pytest.mark.parametrize("wrong", ["0", "1,x", "", "-2"])
def test_a_concurrency_that_is_none_is_refused(lookahead: Lookahead, wrong: str) -> None:
    assert lookahead("-c", wrong) == 2


def test_conversations_are_read_from_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    message = {"role": "user", "content": "hello"}
    path.write_text(json.dumps({"messages": [message]}) + '\n{"text": "once"}\n')
    assert read_prompts([path]) == [Prompt(messages=(message,)), Prompt("once")]


@st.composite
def bursts(draw: st.DrawFn) -> Burst:
    first = st.floats(0.01, 5)
    reply = st.builds(
        lambda num_tokens, first_s, more_s: Reply("", num_tokens, first_s, first_s + more_s),
        st.integers(1, 50),
        first,
        first,
    )
    outcomes = draw(st.lists(reply | st.just("failed"), min_size=1, max_size=8))
    return Burst("plain", 1, draw(st.floats(0.1, 9)), tuple(outcomes))


@given(st.lists(bursts(), min_size=1, max_size=3))
def test_figures_are_those_of_their_definitions(some: list[Burst]) -> None:
    [row] = rows(some)
    replies = [r for burst in some for r in burst.outcomes if isinstance(r, Reply)]
    speeds = [
        sum(r.num_tokens for r in b.outcomes if isinstance(r, Reply)) / b.wall_s for b in some
    ]
    assert row.tokens_per_second == pytest.approx(np.median(speeds))
    assert row.num_requests == sum(len(burst.outcomes) for burst in some)
    assert row.num_errors == row.num_requests - len(replies)
    per_token = [(r.last_s - r.first_s) / (r.num_tokens - 1) for r in replies if r.num_tokens > 1]
    if per_token:
        assert row.per_token_ms is not None
        expected = 1000 * np.percentile(per_token, [50, 99])
        assert [row.per_token_ms.p50, row.per_token_ms.p99] == pytest.approx(list(expected))
    else:
        assert row.per_token_ms is None
