"""Settings come from the command line, then the environment; a wrong one is named in one line."""

import json
import re
from pathlib import Path

import pytest

from drafter.config import DrafterConfig
from lookahead.gateway.config import GatewayConfig
from rpc.settings import ServiceSettings, read_settings, settings_of
from verifier.config import VerifierConfig

SERVICES: dict[str, type[ServiceSettings]] = {
    "verifier": VerifierConfig,
    "drafter": DrafterConfig,
    "lookahead.gateway": GatewayConfig,
}


def refusal(
    program: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[str, object]:
    """Return the one line that a service ends with, and its exit status."""
    with pytest.raises(SystemExit) as caught:
        read_settings(SERVICES[program], program, None, arguments)
    prefix = f"python -m {program}: error: "
    line = capsys.readouterr().err
    assert line.startswith(prefix) and line.count("\n") == 1
    return line.removeprefix(prefix).rstrip("\n"), caught.value.code


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "x", "--max-sequences", "0"], "max_sequences: .*, not '0'"),
        (["--model", "x", "--max-nodes", "many"], "max_nodes: .*, not 'many'"),
        (["--model", "x", "--device", "abacus"], "device: .*, not 'abacus'"),
        (["--model", "x", "--kv-memory", "lots"], "kv_memory: .*, not 'lots'"),
        ([], "model: Field required"),
    ],
)
def test_a_bad_setting_is_named_with_its_ways_and_its_value(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line, status = refusal("verifier", arguments, capsys)
    name = reason.partition(":")[0]
    ways = rf" \(--{name.replace('_', '-')} or LOOKAHEAD_VERIFIER_{name.upper()}\)"
    assert re.fullmatch(reason + ways, line)
    assert status == 2


def test_several_bad_settings_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    line, _ = refusal("drafter", ["--grace-s", "-1", "--max-live-tokens", "few"], capsys)
    assert re.fullmatch(r"max_live_tokens: .*; grace_s: .*", line)


def test_settings_that_do_not_fit_together_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    line, _ = refusal("drafter", ["--tls-ca", "ca.crt"], capsys)
    assert line == "tls_ca = 'ca.crt' needs tls_cert and tls_key"


@pytest.mark.parametrize("value", ["sk-secret=acme", '["sk-secret"]', '{"sk-secret": 5}'])
def test_a_bad_secret_is_told_without_its_value(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOKAHEAD_GATEWAY_KEYS", value)
    line, _ = refusal("lookahead.gateway", [], capsys)
    assert re.fullmatch(r"keys: .* \(LOOKAHEAD_GATEWAY_KEYS\)", line)
    assert "sk-secret" not in line


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKAHEAD_VERIFIER_MODEL", "theirs")
    monkeypatch.setenv("LOOKAHEAD_VERIFIER_MAX_WAITING", "7")
    arguments = ["--model", "mine", "--drafter", "a:1,b:2"]
    config = read_settings(VerifierConfig, "verifier", None, arguments)
    assert (config.model, config.max_waiting, config.drafter) == ("mine", 7, "a:1,b:2")


def test_the_drafter_takes_a_redis_url_that_it_does_not_show() -> None:
    url = "redis://:password@host"
    config = read_settings(DrafterConfig, "drafter", None, ["--redis", url])
    assert config.redis_url.get_secret_value() == url
    assert "password" not in repr(config)


def test_keys_cannot_be_given_where_other_users_see_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read_settings(GatewayConfig, "lookahead.gateway", None, ["--keys", json.dumps({"a": "b"})])
    assert "unrecognized arguments: --keys" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SERVICES.values())
def test_every_setting_is_explained(kind: type[ServiceSettings]) -> None:
    settings = list(settings_of(kind))
    assert {setting.name for setting in settings} == set(kind.model_fields)
    assert all(setting.help for setting in settings)


def test_a_row_of_the_table_holds_what_the_class_says() -> None:
    found = {setting.name: setting for setting in settings_of(VerifierConfig)}
    row = found["max_sequences"]
    assert (row.option, row.variable) == ("--max-sequences", "LOOKAHEAD_VERIFIER_MAX_SEQUENCES")
    assert (row.form, row.limits, row.default) == ("INTEGER", "at least 1, at most 512", "8")
    assert found["device"].choices == ("auto", "cpu", "cuda")
    assert found["require_bitwise"].default == "false"
    gateway = {setting.name: setting for setting in settings_of(GatewayConfig)}
    assert gateway["keys_file"].kind is Path
    assert (gateway["keys"].option, gateway["keys"].form) == ("", "JSON")


def test_help_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(VerifierConfig, "verifier", "About.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--max-waiting INTEGER Requests that may wait for a slot (default: 256)" in text
    assert "85 % of what is free" in text
