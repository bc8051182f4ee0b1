"""The comparison's arithmetic: what a sample counts, medians of ratios, and the table of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.marked_place import NoPlace, fill
from bench.plots import plot_bars
from bench.serving.figures import Figure
from bench.serving.peers.page import place, tables
from bench.serving.peers.protocol import Answer
from bench.serving.peers.ratios import (
    COLD,
    LLAMA_PLAIN,
    PLAIN,
    VLLM_COLD,
    VLLM_NGRAM,
    VLLM_PLAIN,
    ratios,
)
from bench.serving.peers.report import Report, Skipped, load_report
from bench.serving.peers.samples import Row, Sample, decoding, token_ms, tokens_per_step
from bench.serving.peers.table import bars, cell, grids, speeds, words
from bench.serving.peers.tasks import STREAMS, read_name


def sample(row: Row, task: str = "JSON", number: int = 0, *, ms: float, steps: int = 60) -> Sample:
    """60 tokens that took so many milliseconds each."""
    return Sample("float32", task, row, number, 0.06 * ms, 60, steps, ["words"])


def report(*samples: Sample) -> Report:
    skipped = [Skipped("float32", "vLLM, suffix", "cannot be installed: no network")]
    return Report("tiny", "a processor, 2 cores", {"vllm": "1.0"}, 3, 61, skipped, list(samples))


def ratio(found: Report, name: str) -> Figure | None:
    return next((figure for figure in ratios(found) if figure.name == name), None)


def test_first_tokens_cost_nothing_and_count_nothing() -> None:
    batches = [[Answer("a", 64, first_s=0.5, end_s=2.0, num_steps=9)]] * 2
    spent = decoding(batches)
    assert (spent.seconds, spent.num_tokens, spent.num_steps) == (3.0, 126, 18)
    assert spent.texts == ["a", "a"]


def test_streams_last_from_their_first_token_to_their_last() -> None:
    early = Answer("a", 11, first_s=0.1, end_s=1.0, num_steps=10)
    late = Answer("b", 11, first_s=0.4, end_s=1.6, num_steps=5)
    spent = decoding([[early, late]])
    assert spent.seconds == pytest.approx(1.5)
    assert (spent.num_tokens, spent.num_steps) == (20, 15)


def test_steps_that_a_server_does_not_tell_stay_unknown() -> None:
    assert decoding([[Answer("a", 11, 0.1, 1.0)]]).num_steps is None


def test_cell_is_the_median_of_its_rounds() -> None:
    found = report(*(sample(PLAIN, number=i, ms=ms) for i, ms in enumerate((30.0, 10.0, 20.0))))
    assert found.median("float32", "JSON", PLAIN, token_ms) == pytest.approx(20.0)
    assert cell(found, "float32", "JSON", PLAIN) == "20.0"
    assert cell(found, "float32", "JSON", COLD) == ""


def test_cell_of_drafts_says_the_tokens_of_a_step() -> None:
    drafted = sample(COLD, ms=5.0, steps=20)
    assert tokens_per_step(drafted) == 3.0
    assert cell(report(drafted), "float32", "JSON", COLD) == "5.0 (3.0)"


def test_streams_and_reading_are_told_in_tokens_a_second() -> None:
    found = report(sample(PLAIN, STREAMS, ms=5.0), sample(PLAIN, read_name(200), ms=2.0))
    assert cell(found, "float32", STREAMS, PLAIN) == "200"
    assert cell(found, "float32", "read 200", PLAIN) == "500"


def test_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # The machine is three times slower in the last round, which the ratio does not show.
    ours = [sample(PLAIN, number=i, ms=ms) for i, ms in enumerate((12.0, 13.0, 36.0))]
    theirs = [sample(VLLM_PLAIN, number=i, ms=ms) for i, ms in enumerate((10.0, 10.0, 30.0))]
    found = ratio(report(*ours, *theirs), "plain step / vLLM's plain step")
    assert found is not None
    assert found.value == pytest.approx(1.2)
    assert found.passes


def test_the_best_peer_counts() -> None:
    found = report(sample(COLD, ms=10.0), sample(VLLM_NGRAM, ms=20.0), sample(VLLM_COLD, ms=11.0))
    best = ratio(found, "JSON: drafted / vLLM's best speculation, cold")
    assert best is not None
    assert best.value == pytest.approx(10 / 11)
    assert best.passes is False


def test_text_that_copies_little_has_a_ratio_and_no_bar() -> None:
    found = report(sample(COLD, "chat", ms=10.0), sample(LLAMA_PLAIN, "chat", ms=5.0))
    figure = ratio(found, "chat: drafted / llama.cpp's best, plain or cold")
    assert figure is not None
    assert (figure.value, figure.at_most) == (pytest.approx(2.0), None)


def test_faster_streams_have_a_larger_ratio() -> None:
    found = report(sample(COLD, STREAMS, ms=4.0), sample(VLLM_PLAIN, STREAMS, ms=5.0))
    figure = ratio(found, "8 streams: drafted / vLLM's best, plain or n-gram, tokens/s")
    assert figure is not None
    assert (figure.value, figure.passes) == (pytest.approx(1.25), True)


def test_types_are_compared_by_their_tokens_per_step() -> None:
    wide = sample(COLD, ms=10.0, steps=20)
    narrow = replace(wide, dtype="bfloat16", num_steps=30)
    figure = ratio(report(wide, narrow), "JSON: tokens per step, bfloat16 / float32")
    assert figure is not None
    assert (figure.value, figure.passes) == (pytest.approx(2 / 3), False)


def test_a_missing_peer_leaves_out_its_ratios() -> None:
    assert [figure.name for figure in ratios(report(sample(PLAIN, ms=9.0)))] == []


def test_words_are_compared_with_the_same_systems_plain_ones() -> None:
    other = replace(sample(COLD, number=1, ms=5.0), texts=["other words"])
    found = report(*(sample(PLAIN, number=i, ms=9.0) for i in (0, 1)), sample(COLD, ms=5.0), other)
    assert words(found, "float32", COLD) == "1/2"
    assert words(found, "float32", PLAIN) == ""


def test_rows_begin_with_ours_and_each_system_with_plain() -> None:
    rows = (VLLM_COLD, LLAMA_PLAIN, COLD, VLLM_PLAIN, PLAIN)
    grid = speeds(report(*(sample(row, ms=9.0) for row in rows)), "float32")
    assert [row[0] for row in grid.rows] == [
        "ours, plain",
        "ours, drafted, cold",
        "vLLM, plain",
        "vLLM, suffix, cold",
        "llama.cpp, plain",
    ]


def test_report_survives_being_saved(tmp_path: Path) -> None:
    found = report(sample(PLAIN, ms=9.0), sample(VLLM_COLD, ms=3.0))
    found.save(tmp_path / "made" / "report.json")
    assert load_report(tmp_path / "made" / "report.json") == found


def test_tables_take_the_place_of_what_stood_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers: tiny -->\nold\n<!-- end of peers: tiny -->\nafter\n")
    found = report(sample(PLAIN, ms=9.0))
    fill(page, place(found), tables(found))
    once = page.read_text()
    fill(page, place(found), tables(found))
    assert page.read_text() == once
    assert once.startswith("before\n<!-- peers: tiny -->\n")
    assert once.endswith("<!-- end of peers: tiny -->\nafter\n")
    assert "old" not in once
    assert "| ours, plain | 9.0 |  |" in once
    assert "| vLLM, suffix | float32 | cannot be installed: no network |" in once


def test_page_without_a_place_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(NoPlace, match="<!-- peers: tiny -->"):
        fill(page, place(report()), tables(report()))
    assert page.read_text() == "nothing\n"


def test_every_table_can_be_shown_and_drawn(tmp_path: Path) -> None:
    found = report(sample(PLAIN, ms=9.0), sample(COLD, ms=3.0), sample(VLLM_PLAIN, ms=9.0))
    assert [grid.terminal().row_count for grid in grids(found)] == [3, 1, 2]
    assert bars(found)[0].series["vLLM, plain"] == [pytest.approx(9.0)]
    plot_bars(tmp_path / "bars.png", bars(found))
    assert (tmp_path / "bars.png").stat().st_size > 10_000
