"""Replay: honest accounting on hand-made requests, and sources that keep their promises."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.replay.__main__ import main
from bench.replay.draft import Draft, checked, walk
from bench.replay.lookahead_paper import LookaheadPaper
from bench.replay.player import play_cold, play_online
from bench.replay.prompt_lookup import PromptLookup
from bench.replay.recording import SETTLING_REQUESTS, figures
from bench.replay.sources import NoDrafts, Ours, factory
from bench.replay.traces import Request, load

PHRASE = [7, 11, 13, 17, 19, 23, 29, 31]


class Oracle(NoDrafts):
    """Drafts the truth with a known probability of a wrong sibling first."""

    def __init__(self, output: list[int]) -> None:
        self._output = output
        self._position = 0
        self.verified: list[int] = []

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Count how far the output has come."""
        self._position += len(token_ids)
        self.verified.append(num_verified)

    def propose(self, max_nodes: int) -> Draft:
        """Draft a wrong token and a true chain of two."""
        truth = self._output[self._position : self._position + 2]
        return Draft(
            [999, *truth], [-1, -1, 1][: 1 + len(truth)], [0.9, 0.5, 0.4][: 1 + len(truth)]
        )


def requests(number: int, seed: int = 0) -> list[Request]:
    """Make requests whose outputs copy their prompts and repeat over requests."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(number):
        noise = rng.integers(100, 5000, 40).tolist()
        made.append(Request(str(index), [2, *noise, *PHRASE], [*noise[:20], *PHRASE, *PHRASE]))
    return made


def test_tokens_per_step_count_accepted_and_next_but_not_the_first_token() -> None:
    request = Request("one", [1, 2], list(range(10, 20)))
    it = figures(play_cold([request], lambda: Oracle(request.output), 16))
    # Nine tokens after the first one, three per step.
    assert (it.steps, it.tokens_per_step, it.drafted_per_step) == (3, 3.0, 3.0)
    assert it.precision == pytest.approx(2 / 3)


def test_a_cut_draft_counts_and_reports_only_the_nodes_above_the_threshold() -> None:
    request = Request("one", [1], list(range(10, 15)))
    source = Oracle(request.output)
    it = figures(play_cold([request], lambda: source, 16, threshold=0.45))
    assert (it.steps, it.drafted_per_step) == (2, 2.0)
    assert source.verified == [0, 2, 2]


def test_calibration_starts_after_the_settling_requests_and_measures_the_gap() -> None:
    request = Request("one", [1], list(range(10, 17)))
    many = [request] * (SETTLING_REQUESTS + 5)
    it = figures(play_cold(many, lambda: Oracle(request.output), 16))
    # Per step: 0.9 never true, 0.5 and 0.4 always true.
    assert it.ece == pytest.approx((0.9 + 0.5 + 0.6) / 3)
    assert sum(each.num_nodes for each in it.calibration) == 5 * 2 * 3
    assert it.expected_accepted_per_step == pytest.approx(1.8)


def test_walk_follows_the_truth_and_stops_at_the_first_miss() -> None:
    assert walk([5, 6, 7, 6], [-1, 0, 1, -1], [5, 6, 9]) == [0, 1]
    assert walk([5, 6], [-1, 0], [6, 5]) == []


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (Draft([5, 5], [-1, -1]), "siblings"),
        (Draft([5, 6], [1, -1]), "parent"),
        (Draft([5, 6, 7], [-1, 0, 1]), "max_nodes"),
        (Draft([5, 6], [-1]), "parents"),
        (Draft([5, 6], [-1, 0], [0.2, 0.4]), "fall"),
        (Draft([5], [-1], [1.5]), r"\[0, 1\]"),
    ],
)
def test_a_draft_that_is_no_tree_is_refused(draft: Draft, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked(draft, 2)


@pytest.mark.parametrize("name", ["ours", "prompt-lookup", "lookahead-paper"])
def test_sources_copy_from_the_prompt(name: str) -> None:
    it = figures(play_cold(requests(6), factory(name), 16))
    assert it.tokens_per_step > 2.0
    assert it.drafted_per_step <= 16


@pytest.mark.parametrize("name", ["ours", "lookahead-paper"])
def test_sources_with_a_memory_gain_from_earlier_requests(name: str) -> None:
    rng = np.random.default_rng(3)
    output = rng.integers(10, 900, 60).tolist()
    repeated = [Request(str(index), [2, 3, 4, index + 5], output) for index in range(6)]
    cold = figures(play_cold(repeated, factory(name), 16))
    online = figures(play_online(repeated, factory(name), 16))
    assert online.tokens_per_step > 1.5 * cold.tokens_per_step


def test_no_drafts_means_one_token_per_step() -> None:
    it = figures(play_online(requests(3), NoDrafts, 16))
    assert (it.tokens_per_step, it.drafted_per_step) == (1.0, 0.0)


def test_prompt_lookup_copies_what_followed_the_leftmost_longest_match() -> None:
    source = PromptLookup()
    source.open([1, 2, 3, 50, 51, 9, 2, 3, 60, 1, 2])
    source.observe([3], 0)
    assert list(source.propose(16).token_ids)[:3] == [50, 51, 9]
    source.observe([9, 2, 3], 0)
    assert list(source.propose(2).token_ids) == [60, 1]


def test_the_papers_trie_fills_the_budget_with_the_most_counted_branches() -> None:
    source = LookaheadPaper()
    for following in (5, 5, 6):
        source.open([1])
        source.observe([8, 9, following, following + 10, 40], 0)
        source.close()
    source.open([1, 8, 9])
    draft = source.propose(2)
    assert (list(draft.token_ids), list(draft.parents)) == ([5, 15], [-1, 0])
    token_ids, parents = checked(source.propose(16), 16)
    assert walk(token_ids, parents, [6, 16, 40]) == [3, 4, 5]


def test_the_papers_trie_forgets_a_prompt_with_its_request() -> None:
    source = LookaheadPaper()
    source.open([1, 8, 9, 10, 11])
    source.observe([8], 0)
    assert list(source.propose(4).token_ids) == [9, 10, 11]
    source.close()
    source.open([1, 8])
    assert list(source.propose(4).token_ids) == []


def test_our_memory_per_learned_token_is_reported() -> None:
    source = Ours()
    it = figures(play_online(requests(25), lambda: source, 16))
    assert source.num_learned_tokens() > 0
    assert it.bytes_per_learned_token is not None and it.bytes_per_learned_token > 0


def write_traces(folder: Path) -> Path:
    """Record a few requests as the replay reads them."""
    with gzip.open(folder / "copying.jsonl.gz", "wt", encoding="utf-8") as lines:
        for each in requests(24):
            record = {"id": each.request_id, "prompt": each.prompt, "output": each.output}
            lines.write(json.dumps(record) + "\n")
    return folder


def test_traces_are_read_in_order_and_up_to_the_limit(tmp_path: Path) -> None:
    loaded = load(write_traces(tmp_path), "copying", limit=3)
    assert loaded == requests(24)[:3]


def test_a_broken_line_names_its_place(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bad.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.write('{"id": "x", "prompt": [1]}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl\.gz:1"):
        load(tmp_path, "bad")


def test_command_prints_json_and_draws_the_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "images" / "replay.png"
    folder = write_traces(tmp_path)
    chosen = ["--source", "ours", "--source", "prompt-lookup", "--budget", "16"]
    main(["--traces", str(folder), *chosen, "--json", "--plot", str(plot)])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["source"] for row in rows] == ["ours", "prompt-lookup"]
    assert rows[0]["ece"] is not None and rows[1]["ece"] is None
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_command_prints_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--traces", str(write_traces(tmp_path)), "--source", "none", "--mode", "cold"])
    assert "copying       none" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--budget", "0"], ["--workload", "absent"]])
def test_command_names_a_bad_argument(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=arguments[0][2:]):
        main(["--traces", str(write_traces(tmp_path)), *arguments])
