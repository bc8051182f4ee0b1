"""Metrics, rules, dashboard, page and logs of real processes agree with each other."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lookahead import Client
from lookahead.stack import StackConfig, running
from tests.redis_server import free_port
from tests.test_stack import model

__all__ = ["model"]  # the fixture: a small model with random weights, as a directory

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/lookahead.json"
PAGE = ROOT / "docs/observability.md"
MARKER = "xylophonist"
NAME = re.compile(r"\blookahead_\w+")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")
# Shown once there is a snapshot, which a few tokens do not bring.
LATER = {"lookahead_snapshot_age_seconds"}


@pytest.fixture(scope="module")
def observed(model: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Run a stack and some requests; yield each process's scrape and all logs."""
    with TemporaryDirectory(prefix="la-") as name:
        directory = Path(name)
        ports = {s: free_port() for s in ("verifier", "drafter", "gateway", "vm", "dm")}
        address = {service: f"127.0.0.1:{port}" for service, port in ports.items()}
        config = StackConfig(
            model=str(model),
            directory=directory,
            redis_dir=directory / "redis",
            verifier_address=address["verifier"],
            drafter_address=address["drafter"],
            gateway_address=address["gateway"],
            verifier_metrics=address["vm"],
            drafter_metrics=address["dm"],
            environ={**os.environ, "XDG_CACHE_HOME": name, "LOOKAHEAD_VERIFIER_THREADS": "1"},
        )
        with running(config):
            with Client(address["verifier"]) as client:
                for mode in ("off", "tree"):
                    client.generate(MARKER * 4, max_tokens=16, speculation=mode).wait()
            scrapes = {
                s: _scrape(address[p])
                for s, p in (("verifier", "vm"), ("drafter", "dm"), ("gateway", "gateway"))
            }
        yield scrapes, "".join(path.read_text() for path in directory.glob("*.log"))


def _scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def _families(observed: tuple[dict[str, str], str]) -> set[str]:
    return {
        family.name
        for text in observed[0].values()
        for family in text_string_to_metric_families(text)
        if family.name.startswith("lookahead_") and not family.name.endswith("_created")
    }


def _expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_rules_and_dashboard_use_metrics_that_exist(observed: tuple[dict[str, str], str]) -> None:
    used = set(NAME.findall(RULES.read_text() + " ".join(_expressions())))
    assert {SUFFIX.sub("", name) for name in used} <= _families(observed) | LATER


def test_the_page_lists_every_metric_and_no_other(observed: tuple[dict[str, str], str]) -> None:
    listed = re.findall(r"^\| `(lookahead_\w+)", PAGE.read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {SUFFIX.sub("", name) for name in listed} == _families(observed) | LATER


def test_every_alert_has_a_line_that_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert re.findall(r"^\| `(Lookahead\w+)`", PAGE.read_text(), re.MULTILINE) == alerts


def test_requests_leave_a_line_in_the_log_and_no_word_of_theirs(
    observed: tuple[dict[str, str], str],
) -> None:
    log = observed[1]
    assert log.count("logger=verifier.ends request_end") == 2
    assert MARKER not in log


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
        pytest.fail("promtool is not installed")
    if found is None:
        pytest.skip("needs Debian's prometheus")
    return found


@pytest.mark.system
def test_prometheus_reads_every_scrape(promtool: str, observed: tuple[dict[str, str], str]) -> None:
    for text in observed[0].values():
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True
        )
        assert done.returncode in (0, 3), done.stderr  # 3: remarks on style only


@pytest.mark.system
def test_rules_fire_when_they_should_and_not_before(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", str(RULES.with_name("rules_test.yml"))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
def test_every_expression_of_the_dashboard_is_understood(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": expr} for i, expr in enumerate(_expressions())]
    path = tmp_path / "panels.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 30
