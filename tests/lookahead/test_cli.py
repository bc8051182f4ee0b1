"""The command line against a verifier without a model: output, JSON, exit statuses, messages."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from lookahead.cli import app, main
from lookahead.client.client import Client
from lookahead.client.results import (
    DraftTree,
    GenerationResult,
    Source,
    SpeculationSummary,
    Timings,
    TokenRun,
    Usage,
)
from lookahead.commands.demo import run_session
from lookahead.terminal.display import print_run, printable, shows_colours, split, summary
from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, serving
from tests.support.servers.parts_verifier import PartsVerifier, call, said

Lookahead = Callable[..., int]
SOURCES: tuple[Source, ...] = ("local", "namespace", "successors")


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
def address(verifier: FakeVerifier) -> Iterator[str]:
    with serving(verifier) as address:
        yield address


@pytest.fixture
def lookahead(address: str, monkeypatch: pytest.MonkeyPatch) -> Lookahead:
    """Run a command against the server; return its exit status."""
    monkeypatch.setenv("LOOKAHEAD_ADDRESS", address)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        return int(caught.value.code or 0)

    return run


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, version("lookahead-serving") + "\n")


def test_generate_prints_the_text_alone_and_the_summary_beside_it(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("generate", "once") == 0
    output = capsys.readouterr()
    assert output.out == ANSWER + ".\n"
    assert "drafted tokens accepted" in output.err


def test_generate_passes_its_options_on(lookahead: Lookahead, verifier: FakeVerifier) -> None:
    options = ["-n", "7", "-t", "0.5", "--seed", "3", "--top-k", "4", "--stop", "x", "--stop", "y"]
    assert lookahead("generate", "once", *options, "--speculation", "chain") == 0
    request = verifier.requests[-1]
    assert (request.stopping.max_tokens, request.sampling.seed, request.sampling.top_k) == (7, 3, 4)
    assert list(request.stopping.stop_strings) == ["x", "y"]
    assert not request.sampling.HasField("top_p")


def test_generate_as_json_holds_text_ids_and_speeds(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("generate", "once", "--json", "-n", "11") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == ANSWER[:11]
    assert answer["finish_reason"] == "length"
    assert answer["tokens_per_step"] == pytest.approx(10 / 3)
    assert answer["speculation"]["num_accepted_tokens"] == 8


def test_generate_reads_a_file_or_standard_input(
    lookahead: Lookahead,
    verifier: FakeVerifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("from a file")
    assert lookahead("generate", "-f", str(path)) == 0
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert lookahead("generate") == 0
    assert [request.text for request in verifier.requests] == ["from a file"] * 2


def test_generate_needs_one_prompt(lookahead: Lookahead, tmp_path: Path) -> None:
    assert lookahead("generate", "once", "-f", str(tmp_path)) == 2


def test_generate_compare_prints_both_speeds(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str], verifier: FakeVerifier
) -> None:
    assert lookahead("generate", "once", "--compare") == 0
    output = capsys.readouterr().out
    assert "lookahead" in output and "yes" in output
    seeds = {request.sampling.seed for request in verifier.requests}
    assert len(verifier.requests) == 2 and len(seeds) == 1


def test_compare_teaches_the_memory_nothing(lookahead: Lookahead, verifier: FakeVerifier) -> None:
    lookahead("generate", "once", "--compare", "--json")
    learned = [
        request.speculation.Learning.Name(request.speculation.learn)
        for request in verifier.requests
    ]
    assert learned == ["LEARNING_NONE"] * 2


def test_what_the_server_refuses_is_one_line(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("generate", "once", "-t", "101") == 1
    assert capsys.readouterr().err == "Error: sampling.temperature: must be 0..100\n"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("generate -f none", "--file"),
        ("generate once --json-schema none", "--json-schema"),
        ("generate once --prediction none", "--prediction"),
        ("check none", "files"),
        ("loadtest none", "files"),
        ("--tls-ca none check", "--tls-ca"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_option(command: str, named: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert f"Invalid value for '{named}'" in result.stderr
    assert "file 'none'" in result.stderr


@pytest.mark.parametrize("command", ["generate -f", "check", "loadtest"])
def test_a_file_that_is_no_text_is_named(
    command: str, tmp_path: Path, lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(b"ab\xff")
    assert lookahead(*command.split(), str(path)) == 1
    assert capsys.readouterr().err == f"Error: {path}: not UTF-8 text at byte 2\n"


def test_without_a_server_the_message_says_how_to_start_one(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("generate", "once", "--address", "127.0.0.1:1") == 1
    assert "lookahead serve" in capsys.readouterr().err


def test_check_finds_nothing_where_texts_are_equal(
    lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookahead("check", "-n", "16") == 0
    assert "Identical: 288 tokens compared" in capsys.readouterr().out


def test_check_finds_the_token_that_differs(
    lookahead: Lookahead,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.servers.fake_verifier._text", _text_that_drafting_changes)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("once")
    assert lookahead("check", str(prompt), "--json") == 1
    findings = json.loads(capsys.readouterr().out)
    assert len(findings) == 6
    assert {finding["first_difference"] for finding in findings} == {7}
    assert all(finding["is_plain_repeatable"] for finding in findings)
    assert lookahead("check", str(prompt)) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 of 6 runs differ" in shown
    assert "not bitwise: it has no rows" in shown


def test_check_finds_the_bits_that_differ(
    lookahead: Lookahead,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "tests.support.servers.fake_verifier._logprob", _logprob_that_drafting_adds_to
    )
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("once")
    assert lookahead("check", str(prompt), "--json") == 1
    findings = json.loads(capsys.readouterr().out)
    assert [finding["first_difference"] for finding in findings] == [None] * 6
    assert [finding["first_other_bits"] for finding in findings] == [0] * 6
    assert not any(finding["is_identical"] for finding in findings)
    assert lookahead("check", str(prompt)) == 1
    assert "bits of token 0" in capsys.readouterr().out


def test_chat_without_a_template_says_what_to_do(
    verifier: FakeVerifier, lookahead: Lookahead, capsys: pytest.CaptureFixture[str]
) -> None:
    verifier.has_chat_template = False
    assert lookahead("chat") == 1
    assert "no chat template" in capsys.readouterr().err


def test_chat_sends_the_whole_conversation(
    verifier: FakeVerifier, lookahead: Lookahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, "first", "second", "/reset", "third", "/exit")
    assert lookahead("chat", "--system", "be brief") == 0
    said = [[message.content for message in request.chat.messages] for request in verifier.requests]
    assert said == [
        ["be brief", "first"],
        ["be brief", "first", ANSWER + ".", "second"],
        ["be brief", "third"],
    ]


def test_raw_chat_continues_the_text(
    verifier: FakeVerifier, lookahead: Lookahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, "once", " upon")
    assert lookahead("chat", "--raw") == 0
    assert [request.text for request in verifier.requests] == ["once", f"once{ANSWER}. upon"]


def test_the_demo_session_prints_answers_and_one_table(address: str) -> None:
    console = Console(record=True, width=100, force_terminal=True, color_system="standard")
    with Client(address) as client:
        comparisons = run_session(console, client)
    assert [comparison.is_identical for comparison in comparisons] == [True] * 4
    text = console.export_text()
    assert text.count(ANSWER) == 4
    assert "tool: get_weather(city, day, unit)" in text
    assert "mean" in text and "accepted" in text


def test_chat_shows_calls_and_takes_their_results(
    lookahead: Lookahead,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tools.json").write_text('[{"function": {"name": "weather"}}]')
    tools = f"--tools={tmp_path / 'tools.json'}"
    verifier = PartsVerifier(
        [said("I look."), call('{"city": "Rome"}', name="weather")], [said("Sunny.")]
    )
    _type(monkeypatch, "Rain?", "sunny", "/exit")
    with serving(verifier) as address:
        assert lookahead("chat", tools, f"--address={address}") == 0
    assert 'weather(city="Rome")' in capsys.readouterr().out
    [asked, answered] = verifier.requests
    assert [tool.name for tool in asked.chat.tools] == ["weather"]
    [_, called, result] = answered.chat.messages
    assert (called.content, called.tool_calls[0].arguments) == ("I look.", '{"city": "Rome"}')
    assert (result.role, result.content) == ("tool", "sunny")
    assert result.tool_call_id == called.tool_calls[0].id


def test_tools_that_are_no_list_are_refused(
    lookahead: Lookahead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, why in (("{}", "want a list"), ("[", "not JSON")):
        (tmp_path / "tools.json").write_text(text)
        assert lookahead("chat", f"--tools={tmp_path / 'tools.json'}") == 1
        assert why in capsys.readouterr().err
    assert lookahead("chat", "--raw", f"--tools={tmp_path / 'tools.json'}") == 2


def terminal(**settings: Any) -> Console:
    return Console(record=True, force_terminal=True, color_system="standard", **settings)


TREE = DraftTree((1, 2, 3), (-1, 0, 0), (0.9, 0.5, 0.1), (), ("dra", "fted ", "x"), accepted=(0, 1))
RUN = TokenRun(
    0,
    (1, 2, 4),
    "drafted own",
    num_drafted=2,
    drafted_text_len=8,
    sources=("local", "namespace"),
    draft_tree=TREE,
)


def test_drafted_text_is_coloured_by_its_source_and_nothing_else() -> None:
    console = terminal()
    print_run(console, RUN)
    assert console.export_text(styles=True) == "\x1b[94mdra\x1b[0m\x1b[32mfted \x1b[0mown"


def test_without_a_tree_drafted_text_has_the_colour_of_its_first_token() -> None:
    console = terminal()
    print_run(console, replace(RUN, draft_tree=None))
    assert console.export_text(styles=True) == "\x1b[94mdrafted \x1b[0mown"


def test_with_no_color_a_terminal_gets_plain_text() -> None:
    file = io.StringIO()
    console = terminal(no_color=True, file=file)
    print_run(console, RUN)
    assert file.getvalue() == "drafted own"
    assert not shows_colours(console)


def test_a_pipe_gets_the_models_very_text() -> None:
    file = io.StringIO()
    print_run(Console(file=file), replace(RUN, text="dr\x1bfted own\r"))
    assert file.getvalue() == "dr\x1bfted own\r"


@given(st.text(max_size=12), st.integers(0, 12), st.lists(st.sampled_from(SOURCES), max_size=4))
def test_the_pieces_of_a_run_are_its_text(text: str, length: int, sources: list[Source]) -> None:
    num_drafted = len(sources)
    texts = tuple("ab"[: 1 + i % 2] for i in range(num_drafted))
    nodes = tuple(range(num_drafted))
    tree = DraftTree(nodes, nodes, (1.0,) * num_drafted, tuple(sources), texts, accepted=nodes)
    run = TokenRun(0, (*nodes, 9), text, num_drafted, length if sources else 0, tuple(sources))
    for shown in (run, replace(run, draft_tree=tree)):
        parts = split(shown)
        assert "".join(part.text for part in parts) == text
        assert {part.source for part in parts} <= {None, *sources}
        assert all(one.source != other.source for one, other in pairwise(parts))
        own = "".join(part.text for part in parts if part.source is None)
        assert own == shown.own_text


def test_the_summary_says_what_drafts_gained() -> None:
    timings = Timings(queue_ms=1, prefill_ms=2, decode_ms=100, plain_decode_ms=250)
    result = GenerationResult("", (1, 2, 3), "stop", Usage(5, 3), timings, SpeculationSummary(1))
    assert "20.0 tokens/s · 2.00 tokens per step · 2.50x plain decoding" in summary(result)


def test_a_terminal_is_not_sent_what_a_model_makes_up() -> None:
    assert (
        printable("a\x1b[31mb\tc\n\x9b")
        == "a\N{REPLACEMENT CHARACTER}[31mb\tc\n\N{REPLACEMENT CHARACTER}"
    )


def _type(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Type lines at the prompt, then Ctrl-D."""
    remaining = iter(lines)

    def read(console: Console, prompt: str) -> str:
        for line in remaining:
            return line
        raise EOFError

    monkeypatch.setattr(Console, "input", read)


def _logprob_that_drafting_adds_to(request: pb.GenerateRequest) -> float:
    return -0.5 if request.speculation.mode == pb.Speculation.MODE_OFF else -0.5 - 2**-20


def _text_that_drafting_changes(request: pb.GenerateRequest) -> str:
    is_drafted = request.speculation.mode != pb.Speculation.MODE_OFF
    return ANSWER[:7] + ("?" if is_drafted else "!") + ANSWER[8:]
