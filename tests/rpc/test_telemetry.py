"""Log lines: the same event as text and as JSON."""

import io
import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.log_sums import MAX_LINES, WINDOW_S, SummingHandler
from rpc.telemetry import JsonFormatter, configure_logging


def _as_json(template: str, *arguments: object, **more: object) -> dict[str, object]:
    record = logging.LogRecord("rpc.x", logging.INFO, "f.py", 1, template, arguments, None)
    for name, value in more.items():
        setattr(record, name, value)
    line: dict[str, object] = json.loads(JsonFormatter().format(record))
    return line


def test_a_template_names_the_event_and_its_fields():
    line = _as_json("request_end id=%s steps=%d queue_ms=%.1f", "abc", 3, 1.25)
    assert (line["event"], line["id"], line["steps"]) == ("request_end", "abc", 3)
    assert line["queue_ms"] == 1.25
    assert (line["level"], line["logger"]) == ("INFO", "rpc.x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["time"]))


def test_a_message_without_fields_is_the_event():
    assert _as_json("stopped")["event"] == "stopped"
    assert _as_json("closing the log: %s", "gone")["event"] == "closing the log: gone"
    assert _as_json("failed space=%s: %s", "a", "b")["event"] == "failed space=a: b"
    assert _as_json("all 100%%")["event"] == "all 100%%"


@given(st.text())
def test_no_argument_breaks_the_line(text: str):
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, "end id=%s", (text,), None)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["id"] == text


def test_an_exception_is_a_field_of_the_line():
    try:
        raise ValueError("broken")
    except ValueError:
        line = _as_json("failed", exc_info=sys.exc_info())
    assert "ValueError: broken" in str(line["exception"])


@pytest.mark.parametrize(("log_format", "is_json"), [("text", False), ("json", True)])
def test_the_format_is_a_setting(log_format, is_json, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure_logging("INFO", log_format)
        logging.getLogger("a.b").info("served id=%s", "x")
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
    line = written.getvalue()
    assert line.startswith("{") == is_json
    assert ("level=INFO logger=a.b served id=x" in line) != is_json


def test_lines_that_repeat_are_summed(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    handler = SummingHandler(lambda: now)
    logger = logging.Logger("rpc.x")
    logger.addHandler(handler)
    for i in range(MAX_LINES + 312):
        logger.warning("client_too_slow id=%d", i)
        logger.info("request_end id=%d", i)
    logger.error("rpc_failed method=%s", "M")
    lines = capsys.readouterr().err.splitlines()
    assert sum("client_too_slow" in line for line in lines) == MAX_LINES
    assert sum("request_end" in line for line in lines) == MAX_LINES + 312
    assert "rpc_failed method=M" in lines
    now = WINDOW_S
    logger.warning("client_too_slow id=%d", 9)
    handler.close()
    assert capsys.readouterr().err.splitlines() == [
        "repeated line=client_too_slow more=312 in_s=10",
        "client_too_slow id=9",
    ]


def test_what_was_not_told_is_told_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    handler = SummingHandler(lambda: 0.0)
    logger = logging.Logger("rpc.x")
    logger.addHandler(handler)
    for _ in range(MAX_LINES + 1):
        logger.warning("accept_failed error=%s", "none")
    handler.close()
    assert "repeated line=accept_failed more=1 in_s=10" in capsys.readouterr().err
