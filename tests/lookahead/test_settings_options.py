"""`lookahead serve`, `verifier`, `drafter` and `gateway` pass the services' settings on to them."""

import os
from typing import Any

import pytest

from drafter.config import DrafterConfig
from lookahead.cli import main
from lookahead.commands import services as cli_services
from lookahead.commands.settings_reference import TARGET, reference
from lookahead.gateway.config import GatewayConfig
from lookahead.stack.stack import StackConfig
from rpc.settings import ServiceSettings, settings_of
from verifier.config import VerifierConfig

GIVEN = {
    "device": "cpu",
    "dtype": "bfloat16",
    "attention": "masked",
    "graphs": "captured",
    "require_bitwise": "True",
    "threads": "3",
    "max_sequences": "5",
    "max_context": "512",
    "max_nodes": "7",
    "kv_memory": "2GiB",
    "prefill_rows": "96",
}

CONFIGS: dict[str, type[ServiceSettings]] = {
    "verifier": VerifierConfig,
    "drafter": DrafterConfig,
    "gateway": GatewayConfig,
}


class Started(Exception):
    """Something would have been started."""


def environment(command: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """What the service that a command starts would find in its environment."""
    found: dict[str, str] = {}

    def stack(console: Any, config: StackConfig) -> None:
        found.update(config.environ)
        raise Started

    def execute(path: str, command: list[str], environ: dict[str, str]) -> None:
        found.update(environ)
        raise Started

    monkeypatch.setattr(cli_services, "run_stack", stack)
    monkeypatch.setattr(os, "execve", execute)
    monkeypatch.setattr(cli_services, "resolve_model", lambda model, console: model)
    model = ["--model", "small"] if command in ("serve", "verifier") else []
    with pytest.raises(Started):
        main([command, *model, *arguments])
    return found


@pytest.mark.parametrize("command", ["serve", "verifier"])
def test_options_become_the_verifiers_settings(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {f"--{name.replace('_', '-')}": value for name, value in GIVEN.items()}
    options = [name if value == "True" else f"{name}={value}" for name, value in named.items()]
    for name, value in environment(command, monkeypatch, *options).items():
        monkeypatch.setenv(name, value)
    read = VerifierConfig(model="small")
    assert {name: str(getattr(read, name)) for name in GIVEN} == GIVEN


@pytest.mark.parametrize("command", ["serve", "verifier"])
def test_an_option_that_is_not_given_leaves_the_environment_as_it_is(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKAHEAD_VERIFIER_DTYPE", "float16")
    monkeypatch.delenv("LOOKAHEAD_VERIFIER_DEVICE", raising=False)
    found = environment(command, monkeypatch)
    assert found["LOOKAHEAD_VERIFIER_DTYPE"] == "float16"
    assert "LOOKAHEAD_VERIFIER_DEVICE" not in found


def test_the_services_take_all_their_settings_and_say_what_they_mean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command, kind in CONFIGS.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        settings = [setting for setting in settings_of(kind) if setting.option]
        assert len(settings) > 10
        assert [s.option for s in settings if f"{s.option} " not in shown] == []
        assert "Redis" in shown if command == "drafter" else "Address to serve on" in shown


def test_the_page_of_settings_is_that_of_the_services() -> None:
    page = reference()
    assert TARGET.read_text() == page, "run make settings"
    names = [setting.name for kind in CONFIGS.values() for setting in settings_of(kind)]
    assert [name for name in names if f"| `{name}` |" not in page] == []
    assert "| `max_waiting` | integer, at least 0 | `256` |" in page


def test_the_stack_decides_where_its_services_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    assert "--max-waiting" in shown
    assert "--listen" not in shown and "--drain-s" not in shown


def test_only_what_was_given_becomes_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LOOKAHEAD_")]:
        monkeypatch.delenv(name)
    found = environment("verifier", monkeypatch, "--threads", "0", "--no-require-bitwise")
    assert {name: value for name, value in found.items() if name.startswith("LOOKAHEAD_")} == {
        "LOOKAHEAD_VERIFIER_MODEL": "small",
        "LOOKAHEAD_VERIFIER_THREADS": "0",
        "LOOKAHEAD_VERIFIER_REQUIRE_BITWISE": "False",
    }


def test_the_drafter_and_the_gateway_get_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("drafter", monkeypatch, "--redis", "redis://r", "--grace-s", "2")
    assert found["LOOKAHEAD_DRAFTER_REDIS_URL"] == "redis://r"
    assert found["LOOKAHEAD_DRAFTER_GRACE_S"] == "2.0"
    found = environment("gateway", monkeypatch, "--verifier", "a:1", "--draft-trees")
    assert found["LOOKAHEAD_GATEWAY_VERIFIER"] == "a:1"
    assert found["LOOKAHEAD_GATEWAY_DRAFT_TREES"] == "True"


def test_a_value_of_no_such_kind_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--device", "abacus"])
    assert caught.value.code == 2
    assert "'--device'" in capsys.readouterr().err
