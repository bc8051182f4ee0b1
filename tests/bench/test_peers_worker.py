"""A benchmark's worker answers over its pipes, and what breaks it comes back as a reason."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving.peers.protocol import Answer, Load
from bench.serving.peers.worker import PeerUnavailable, Worker, worker
from tests.support.servers import fake_peer

LOAD = Load(model="weights", dtype="float32", method="plain", threads=1)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Worker]:
    command = [sys.executable, "-m", fake_peer.__name__]
    with worker(command, environ=os.environ, log_path=tmp_path / "log") as running:
        yield running


def test_answers_come_back_whatever_a_library_prints(peer: Worker, tmp_path: Path) -> None:
    peer.load(LOAD)
    answers = peer.answer([[5, 6], [7]], 8)
    assert answers == [Answer("job 1", 8, 0.5, 1.5, 1)] * 2
    assert "loading weights" in (tmp_path / "log").read_text()


def test_forgetting_reaches_the_worker(peer: Worker) -> None:
    peer.load(LOAD)
    peer.read([[5]])
    assert peer.answer([[5]], 8)[0].text == "job 2"
    peer.forget()
    assert peer.answer([[5]], 8)[0].text == "job 1"


def test_worker_that_cannot_load_says_why(peer: Worker) -> None:
    with pytest.raises(PeerUnavailable, match="ValueError: no such type: float8"):
        peer.load(Load(model="weights", dtype="float8", method="plain", threads=1))


def test_worker_goes_on_after_an_error(peer: Worker) -> None:
    peer.load(LOAD)
    with pytest.raises(PeerUnavailable, match="RuntimeError: out of pages"):
        peer.answer([[fake_peer.RAISE]], 8)
    assert peer.answer([[5]], 8)[0].text == "job 1"


def test_death_is_reported_with_the_last_words(peer: Worker) -> None:
    peer.load(LOAD)
    for _ in range(2):
        with pytest.raises(PeerUnavailable, match="ended with status 3: terminate called"):
            peer.answer([[fake_peer.DIE]], 8)


def test_program_that_does_not_exist_is_a_reason(tmp_path: Path) -> None:
    command = [str(tmp_path / "nothing")]
    with (
        pytest.raises(PeerUnavailable, match="nothing"),
        worker(command, environ=os.environ, log_path=tmp_path / "log"),
    ):
        pass
