"""`lookahead serve` and `lookahead verifier` pass the verifier's settings on to it."""

import inspect
import os
from typing import Any

import pytest

from lookahead.cli import main
from lookahead.commands import services as cli_services
from lookahead.commands.verifier_options import settings
from lookahead.stack.stack import StackConfig
from verifier.config import VerifierConfig

GIVEN = {
    "device": "cpu",
    "dtype": "bfloat16",
    "attention": "eager",
    "compile": "True",
    "exactness": "exact",
    "threads": "3",
    "max_sequences": "5",
    "max_context": "512",
    "max_nodes": "7",
    "kv_memory": "2GiB",
    "prefill_rows": "96",
}


class Started(Exception):
    """Something would have been started."""


def environment(command: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """What the verifier that a command starts would find in its environment."""
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
    with pytest.raises(Started):
        main([command, "--model", "small", *arguments])
    return found


@pytest.mark.parametrize("command", ["serve", "verifier"])
def test_options_become_the_verifiers_settings(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"--{name.replace('_', '-')}={v}" for name, v in GIVEN.items() if v != "True"]
    options.append("--compile")
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


def test_both_commands_offer_the_same_settings_and_all_of_them_exist() -> None:
    offered = [
        {name for name in inspect.signature(command).parameters if name in GIVEN}
        for command in (cli_services.serve, cli_services.verifier)
    ]
    assert offered == [set(GIVEN), set(GIVEN)]
    assert set(GIVEN) <= VerifierConfig.model_fields.keys()


def test_only_what_was_given_becomes_a_variable() -> None:
    assert settings(threads=0, device=None) == {"LOOKAHEAD_VERIFIER_THREADS": "0"}
