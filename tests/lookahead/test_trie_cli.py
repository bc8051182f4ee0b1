"""`lookahead trie` against two real drafters that share one Redis."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.live import Live

from bench.topologies.server import Server, free_port, running, wait_until
from lookahead.cli import main
from lookahead.client.drafter_client import DrafterClient, NamespaceInfo
from lookahead.trie import command as trie_cli
from lookahead.trie import learning as trie_learning
from lookahead.trie.corpus import MAX_PIECE_CHARS, read_pieces
from protos import verifier_pb2 as pb
from rpc.health import is_serving
from tests.support.servers.fake_verifier import FakeVerifier, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_kernels")]

VOCABULARY = "letters"
TEXT = "It was the best of times, it was the worst of times.\n"
Run = Callable[..., int]


class LetterVerifier(FakeVerifier):
    """Knows which vocabulary its letters are."""

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        model = super().GetModel(request, context)
        model.vocabulary_fingerprint = VOCABULARY
        model.max_context_len = 1024
        return model


@dataclass
class Stack:
    """Two drafters, their Redis and a verifier."""

    redis: Server
    drafters: list[str]
    verifier: str


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    redis = Server(tmp_path_factory.mktemp("redis"))
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with running(redis), serving(LetterVerifier()) as verifier:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "drafter", "--listen", address, "--redis", redis.url],
                stderr=subprocess.DEVNULL,
            )
            for address in addresses
        ]
        try:
            wait_until(lambda: all(is_serving(address) for address in addresses), 60.0)
            yield Stack(redis, addresses, verifier)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(10)


@pytest.fixture
def lookahead(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LOOKAHEAD_ADDRESS", stack.verifier)
    monkeypatch.setenv("LOOKAHEAD_DRAFTER", " ".join(stack.drafters))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(("trie", *arguments))
        return int(caught.value.code or 0)

    return run


def held(stack: Stack, namespace: str) -> list[int]:
    """Return how many tokens each drafter holds of a namespace."""
    found = []
    for address in stack.drafters:
        with DrafterClient(address) as client:
            found += [i.num_tokens for i in client.namespaces() if i.namespace == namespace]
    return found


def follow(stack: Stack, namespace: str) -> None:
    """Make both drafters hold a namespace, as traffic would."""
    for address in stack.drafters:
        with DrafterClient(address) as client:
            client.learn(VOCABULARY, namespace, [[1]])
    wait_until(lambda: held(stack, namespace) == [4, 4])


def test_learned_files_are_on_all_drafters_with_one_digest(
    stack: Stack, lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(stack, "files")
    (tmp_path / "a.txt").write_text(TEXT)
    lines = [{"text": TEXT}, {"token_ids": [5, 6, 7]}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert (
        lookahead("learn", str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), "-n", "files") == 0
    )
    num_tokens = 2 * len(TEXT) + 3
    assert f"learned {num_tokens} tokens into files" in capsys.readouterr().out
    wait_until(lambda: held(stack, "files") == [4 + num_tokens + 3] * 2)
    assert lookahead("digest", "--prefix", "files") == 0
    digests = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_stats_lists_every_drafter(
    stack: Stack, lookahead: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(stack, "listed")
    assert lookahead("list", "--prefix", "listed") == 0
    table = capsys.readouterr().out
    assert all(address in table for address in stack.drafters)
    assert lookahead("list", "--prefix", "listed", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [rows[0]["num_tokens"] for rows in found.values()] == [4, 4]


def test_forgotten_namespace_is_gone_everywhere(
    stack: Stack, lookahead: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(stack, "secret")
    monkeypatch.setattr("typer.confirm", lambda *arguments, **options: True)
    assert lookahead("forget", "secret") == 0
    wait_until(lambda: held(stack, "secret") == [0, 0])
    assert not [key for key in stack.redis.client().keys("*") if b"secret" in key]


def test_export_comes_back_by_import(
    stack: Stack,
    lookahead: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, redis = str(tmp_path / "memory.trie"), ("--redis", stack.redis.url)
    follow(stack, "saved")
    assert lookahead("export", file, "-n", "saved", *redis) == 0
    assert "wrote 4 tokens" in capsys.readouterr().out
    assert "max_namespace_bytes" not in caplog.text  # its limit is its own and concerns no drafter
    assert lookahead("import", file, "-n", "copied") == 0
    wait_until(lambda: held(stack, "copied")[:1] == [4])
    assert lookahead("import", file, "-n", "copied", "--vocabulary", "other") != 0
    assert "'other'" in capsys.readouterr().err
    damaged = bytearray(Path(file).read_bytes())
    damaged[-1] ^= 1
    Path(file).write_bytes(damaged)
    assert lookahead("import", file, "-n", "copied") != 0


def test_export_neither_writes_to_redis_nor_invents_an_empty_memory(
    stack: Stack, lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(stack, "kept")
    redis = stack.redis.client()
    before = set(redis.keys("*"))
    file = tmp_path / "memory.trie"
    assert lookahead("export", str(file), "-n", "kept", "--redis", stack.redis.url) == 0
    file.unlink()
    assert lookahead("export", str(file), "-n", "unheard-of", "--redis", stack.redis.url) == 1
    assert "nothing" in capsys.readouterr().err
    assert not file.exists()
    assert set(redis.keys("*")) == before


def test_export_without_redis_fails_at_once_and_says_so(
    lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    assert lookahead("export", str(tmp_path / "memory.trie"), "--redis", url) == 1
    assert "127.0.0.1" in capsys.readouterr().err


def test_top_redraws_until_it_is_stopped(
    stack: Stack, lookahead: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(stack, "watched")
    drawn = []

    def stop_after_two(live: Live, table: Any, **options: bool) -> None:
        drawn.append(table)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Live, "update", stop_after_two)
    monkeypatch.setattr(trie_cli.time, "sleep", lambda seconds: None)
    assert lookahead("list", "--watch", "--prefix", "watched") in (1, 130)
    assert [column.header for column in drawn[1].columns][3] == "tokens/s"
    assert lookahead("list", "--watch", "--json") == 2


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "2"),
        ("[1]", "token_ids"),
        ('{"token_ids": [1, -1]}', "-1"),
        ('{"token_ids": ["1"]}', "integers"),
        ('{"text": 5}', "int"),
        (r'{"text": "\ud800"}', "surrogates"),
    ],
)
def test_bad_line_is_one_message_that_names_it(
    lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, wrong: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    assert lookahead("learn", str(path), "-n", "bad") == 1
    message = capsys.readouterr().err
    assert "bad.jsonl:2" in message
    assert wrong in message
    assert "Traceback" not in message


def test_token_id_outside_the_vocabulary_is_refused(
    stack: Stack, lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text(json.dumps({"token_ids": [1, 1 << 20]}))
    assert lookahead("learn", str(path), "-n", "foreign") == 1
    assert str(1 << 20) in capsys.readouterr().err
    assert not sum(held(stack, "foreign"))


def test_learning_more_than_the_drafter_keeps_says_so(
    stack: Stack,
    lookahead: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text(json.dumps({"token_ids": [1, 2, 3, 4, 5]}))
    monkeypatch.setattr(trie_learning, "_PATIENCE_S", 0.2)
    for kept, is_said in ((4, True), (6, False)):
        info = NamespaceInfo(VOCABULARY, "much", kept, 100, "", "root:1-0", 0, 0.0)
        monkeypatch.setattr(DrafterClient, "namespaces", lambda self, prefix="", i=info: [i])
        assert lookahead("learn", str(path), "-n", "much") == 0
        assert ("MAX_NAMESPACE_BYTES" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize(
    ("data", "wrong"),
    [(b"", "empty"), (b"just some text", "no export"), (b"\x09\0\0\0cut", "cut off, 6 bytes")],
)
def test_file_that_is_no_export_is_refused(
    lookahead: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, wrong: str
) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    assert lookahead("import", str(path)) == 1
    assert wrong in capsys.readouterr().err


def test_pieces_of_a_text_are_the_text(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "".join(f"{'é' * (n % 200)}\n" for n in range(2000)) + "x" * 3 * MAX_PIECE_CHARS
    path.write_text(text)
    lines = tmp_path / "long.jsonl"
    lines.write_text(json.dumps({"text": text}))
    for file, most in ((path, MAX_PIECE_CHARS), (path, 100), (lines, 100)):
        pieces = list(read_pieces(file, most))
        assert "".join(piece.text for piece in pieces) == text
        assert sum(piece.num_bytes for piece in pieces) == file.stat().st_size
        assert max(len(piece.text) for piece in pieces) <= most


def test_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt"):
        list(read_pieces(path))
