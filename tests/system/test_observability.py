"""Metrics, rules, dashboard, page and logs of real processes agree with each other."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner

from bench.topologies.server import free_port, wait_until
from lookahead import Client
from lookahead.cli import app
from lookahead.client.errors import InvalidRequest
from lookahead.client.requests import SpeculationMode
from lookahead.stack.stack import Stack, StackConfig, running
from lookahead.top.command import look
from lookahead.top.figures import FIGURES
from lookahead.top.page import page
from lookahead.top.scrape import Change, ScrapeError, parse, scrape
from tests.support import ROOT as ROOT

pytestmark = pytest.mark.usefixtures("compiled_kernels")

RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/lookahead.json"
PAGE = ROOT / "docs/observability.md"
MARKER = "xylophonist"
# The last answer is in the memory by then: drafts of it are accepted.
MODES: list[SpeculationMode] = ["off", "tree", "tree"]
NAME = re.compile(r"\blookahead_\w+")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")
# Shown once there is a snapshot, which a few tokens do not bring.
LATER = {"lookahead_snapshot_age_seconds"}


@dataclass(frozen=True)
class Observed:
    """A running stack that has answered some requests."""

    stack: Stack
    addresses: dict[str, str]  # where each process answers scrapes
    scrapes: dict[str, str]

    @property
    def log(self) -> str:
        """Of all processes."""
        return "".join(p.read_text() for p in self.stack.config.directory.glob("*.log"))


@pytest.fixture(scope="module")
def observed(saved_model: Path) -> Iterator[Observed]:
    with TemporaryDirectory(prefix="la-") as name:
        directory = Path(name)
        services = ("verifier", "drafter", "gateway")
        addresses = {service: f"127.0.0.1:{free_port()}" for service in services}
        config = replace(
            StackConfig.apart(
                str(saved_model),
                directory,
                environ={**os.environ, "XDG_CACHE_HOME": name, "LOOKAHEAD_VERIFIER_THREADS": "1"},
                gateway_address=addresses["gateway"],
            ),
            verifier_metrics=addresses["verifier"],
            drafter_metrics=addresses["drafter"],
        )
        with running(config) as stack:
            for mode in MODES:
                _ask(stack, mode)
            # On so small a model drafting may lose time at first, and goes off for a while.
            wait_until(lambda: _has_accepted(stack, addresses["verifier"]), 60)
            scrapes = {service: _scrape(address) for service, address in addresses.items()}
            yield Observed(stack, addresses, scrapes)


def _ask(stack: Stack, mode: SpeculationMode) -> None:
    with Client(stack.config.verifier_address) as client:
        client.generate(MARKER * 4, max_tokens=16, speculation=mode).wait()


def _has_accepted(stack: Stack, metrics: str) -> bool:
    """Whether a draft was accepted; if not, one more request is there to be drafted."""
    if "lookahead_accepted_tokens_per_position_total{" in _scrape(metrics):
        return True
    _ask(stack, "tree")
    return False


def _scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def _families(observed: Observed) -> set[str]:
    return {
        family.name
        for text in observed.scrapes.values()
        for family in text_string_to_metric_families(text)
        if family.name.startswith("lookahead_") and not family.name.endswith("_created")
    }


def _expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.mark.slow
def test_rules_and_dashboard_use_metrics_that_exist(observed: Observed) -> None:
    used = set(NAME.findall(RULES.read_text() + " ".join(_expressions())))
    assert {SUFFIX.sub("", name) for name in used} <= _families(observed) | LATER


@pytest.mark.slow
def test_the_page_lists_every_metric_and_no_other(observed: Observed) -> None:
    listed = re.findall(r"^\| `(lookahead_\w+)", PAGE.read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {SUFFIX.sub("", name) for name in listed} == _families(observed) | LATER


def test_every_alert_has_a_line_that_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert re.findall(r"^\| `(Lookahead\w+)`", PAGE.read_text(), re.MULTILINE) == alerts


@pytest.mark.slow
def test_requests_leave_a_line_in_the_log_and_no_word_of_theirs(
    observed: Observed,
) -> None:
    assert observed.log.count("logger=verifier.telemetry.request_log request_end") >= len(MODES)
    assert MARKER not in observed.log


@pytest.mark.slow
def test_top_shows_what_the_stack_does_and_who_does_not_answer(observed: Observed) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    readings = look([*observed.addresses.values(), nobody], interval_s=0.01)
    next(readings)
    _ask(observed.stack, "tree")
    found = next(readings)
    verifier, drafter, gateway, dead = found
    assert verifier.figures["tokens_per_s"] > 0
    assert verifier.figures["tokens_per_step"] >= 1
    assert verifier.figures["drafting"] in ("on", "backed_off")
    assert drafter.figures["trie_tokens"] > 0
    assert drafter.figures["redis_up"] and drafter.figures["outbox_dropped"] == 0
    assert gateway.figures["verifiers_up"] == 1
    assert (dead.service, dead.error) == ("", "no answer: Connection refused")
    console = Console(width=80, record=True, file=StringIO())
    console.print(page(found))
    text = console.export_text()
    for word in ("tokens/s", "x plain", "Redis", "up", "behind", nobody, "Connection refused"):
        assert word in text
    assert "…" not in text


def test_top_says_so_in_its_exit_status_when_nobody_answers() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, ["top", address, "--interval", "0.1", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output) == [
        {"address": address, "error": "no answer: Connection refused"}
    ]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:many", "no where:1"])
def test_top_says_what_is_wrong_with_an_address(address: str) -> None:
    with pytest.raises(ScrapeError, match="no answer"):
        scrape(address)


@pytest.mark.slow
def test_top_knows_its_own_processes(observed: Observed) -> None:
    with pytest.raises(ScrapeError, match="none of our processes"):
        parse("up 1\n")
    with pytest.raises(ScrapeError, match="not in Prometheus' form"):
        parse("<html>hello</html>\n")


@pytest.mark.slow
def test_top_shows_no_rate_of_what_did_not_happen(observed: Observed) -> None:
    unknown: dict[str, set[str]] = {}
    for text in observed.scrapes.values():
        still = Change(parse(text), parse(text))
        figures = FIGURES[still.now.service](still)
        unknown[still.now.service] = {name for name, value in figures.items() if value is None}
    assert unknown["verifier"] >= {"tokens_per_step", "step_ms", "acceptance"}


def test_counts_that_began_again_are_not_negative() -> None:
    old, new = (
        parse(f'lookahead_build_info{{service="drafter"}} 1\nlookahead_x_total {n}\n')
        for n in (9, 4)
    )
    assert Change(old, new).grown("x_total") == 4


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
        pytest.fail("promtool is not installed")
    if found is None:
        pytest.skip("needs Debian's prometheus")
    return found


@pytest.mark.slow
@pytest.mark.system
def test_prometheus_reads_every_scrape(promtool: str, observed: Observed) -> None:
    for text in observed.scrapes.values():
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True
        )
        assert done.returncode in (0, 3), done.stderr  # 3: remarks on style only


@pytest.fixture
def prometheus(promtool: str, observed: Observed, tmp_path: Path) -> Iterator[str]:
    """A real server that scrapes the stack under our rules; gives its address."""
    jobs = [
        {"job_name": service, "static_configs": [{"targets": [address]}]}
        for service, address in observed.addresses.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
    ]
    process = subprocess.Popen(
        [str(Path(promtool).with_name("prometheus")), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def _query(address: str, expression: str) -> list[dict[str, Any]]:
    """The result of an instant query; nothing while the server starts."""
    url = f"http://{address}/api/v1/query?query={quote(expression)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    except (ConnectionError, urllib.error.URLError):
        return []
    return found


@pytest.mark.slow
@pytest.mark.system
def test_a_prometheus_scrapes_all_processes_and_sees_one_die(
    prometheus: str, observed: Observed
) -> None:
    with Client(observed.stack.config.verifier_address) as client, pytest.raises(InvalidRequest):
        client.generate(token_ids=[1 << 30], max_tokens=1).wait()  # so that there is an error
    used = set(NAME.findall(RULES.read_text() + " ".join(_expressions()))) - LATER
    missing = set(used)

    def all_found() -> bool:
        missing.difference_update([name for name in missing if _query(prometheus, name)])
        return not missing

    wait_until(all_found, 60)
    assert len(_query(prometheus, "up == 1")) == 3
    assert not _query(prometheus, "ALERTS{alertname='LookaheadDown'}")
    observed.stack.children["drafter"].kill()
    down = "ALERTS{alertname='LookaheadDown', job='drafter'}"
    wait_until(lambda: bool(_query(prometheus, down)), 30)


@pytest.mark.slow
@pytest.mark.system
def test_rules_fire_when_they_should_and_not_before(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", str(RULES.with_name("rules_test.yml"))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.system
def test_every_expression_of_the_dashboard_is_understood(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": expr} for i, expr in enumerate(_expressions())]
    path = tmp_path / "panels.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 30
