"""The scale bench: real text in, costs per size out."""

import json
import sysconfig
from pathlib import Path

import pytest

from bench.corpus import VOCABULARY, documents, tokenise
from bench.trie.__main__ import BUDGETS, main, measure


@pytest.fixture
def few_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the top of the standard library only, and probe with two documents."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    monkeypatch.setattr("bench.corpus._sources", lambda seed: paths)
    monkeypatch.setattr("bench.trie.__main__.NUM_PROBES", 2)


def test_the_same_text_always_gets_the_same_ids() -> None:
    first = tokenise("def longest_match(x):\n    return x\n", {})
    again = tokenise("def longest_match(x):\n    return x\n", {})
    assert first.tolist() == again.tolist()
    # longes + t _ match: pieces of at most six letters, signs on their own.
    assert len(tokenise("longest_match", {})) == 4
    assert first.min() >= 0 and first.max() < VOCABULARY


@pytest.mark.usefixtures("few_sources")
def test_documents_hold_as_many_tokens_as_asked_for() -> None:
    assert sum(len(each) for each in documents(20_000)) >= 20_000


def test_more_text_than_is_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.corpus._sources", lambda seed: [])
    with pytest.raises(ValueError, match="num_tokens: 5"):
        documents(5)


@pytest.mark.usefixtures("few_sources")
def test_costs_are_measured_at_every_size_in_one_growing_memory() -> None:
    sizes = measure([5_000, 2_000])
    assert [size.num_tokens for size in sizes] == [2_000, 5_000]
    for size in sizes:
        assert size.insert_us_per_token > 0 and size.bytes_per_token > 0
        assert all(0 < p50 <= p99 for p50, p99 in size.propose_us.values())
        assert tuple(size.propose_us) == BUDGETS


@pytest.mark.usefixtures("few_sources")
def test_command_reports_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "trie.png"
    main(["--tokens", "1000", "--tokens", "4000", "--json", "--plot", str(plot)])
    assert [row["num_tokens"] for row in json.loads(capsys.readouterr().out)] == [1000, 4000]
    assert plot.read_bytes()[:4] == b"\x89PNG"
