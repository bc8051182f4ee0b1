"""docs/api.md names everything that `lookahead.client` exports, and its example works."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

import lookahead.client
from lookahead.client import AsyncClient, Client, DrafterClient, LookaheadError
from lookahead.client.errors import CLASSES
from tests.support import ROOT
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, serving
from tests.support.servers.running_gateway import host
from tests.support.servers.running_verifier import verifier

SECTION = (ROOT / "docs/api.md").read_text().split("\n## Python client\n")[1].split("\n## ")[0]
EXPORTED = {name: getattr(lookahead.client, name) for name in lookahead.client.__all__}
RESULTS = {name: kind for name, kind in EXPORTED.items() if is_dataclass(kind)}
CODES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
PROMPT = "The lighthouse was built in"


def row(name: str) -> str:
    """Return the row of a table that begins with this name."""
    return next((line for line in SECTION.splitlines() if line.startswith(f"| `{name}` |")), "")


def example(address: str, prompt: str = PROMPT, *, place: int = 0) -> list[str]:
    """Run the documented example against a server; return the lines that it prints."""
    code = CODES[place]
    code = code.replace("127.0.0.1:50051", address).replace(PROMPT, prompt)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_exported_name_is_documented() -> None:
    assert {name for name in EXPORTED if f"`{name}`" not in SECTION} == set()


@pytest.mark.parametrize("name", RESULTS)
def test_the_fields_of_a_result_are_those_documented(name: str) -> None:
    kind = RESULTS[name]
    derived = {name for name, value in vars(kind).items() if isinstance(value, property)}
    documented = re.findall(r"`(\w+)`", row(name).split("|")[3])
    assert set(documented) == {field.name for field in fields(kind)} | derived
    assert len(documented) == len(set(documented))


@pytest.mark.parametrize("kind", [Client, DrafterClient])
def test_every_call_of_a_client_is_documented(kind: type) -> None:
    calls = {name for name in dir(kind) if callable(getattr(kind, name)) and name[0] != "_"}
    documented = set(re.findall(r"`([a-z_]+)`", row(kind.__name__)))
    assert documented == calls


def test_both_clients_have_the_same_calls() -> None:
    plain, asynchronous = (
        {name for name in dir(kind) if name[0] != "_"} for kind in (Client, AsyncClient)
    )
    assert plain == asynchronous


def test_every_error_is_documented_with_its_status() -> None:
    documented = {
        status.name for status, kind in CLASSES.items() if status.name in row(kind.__name__)
    }
    assert documented == {status.name for status in CLASSES}
    errors = {k for k in EXPORTED.values() if isinstance(k, type) and issubclass(k, LookaheadError)}
    assert {kind for kind in errors - {LookaheadError} if not row(kind.__name__)} == set()


def test_the_example_prints_the_answer_or_says_what_went_wrong() -> None:
    with serving(FakeVerifier()) as address:
        assert example(address) == [ANSWER[:16]]
        assert example(address, "overload") == ["try again in 0.25 s"]
        assert example(address, "bad text") == ["change text: is bad"]


def test_the_example_with_tools_makes_a_call_and_goes_on() -> None:
    with (
        host() as loop,
        loop.holding(verifier(max_context=2000)) as (address, _),
    ):
        called, *said = example(address, place=1)
    assert called in ("weather {'city': 'Rome'}", "weather {'city': 'Oslo'}")
    assert said
    assert len(CODES) == 2


def test_a_stream_raises_where_it_is_read_and_a_bad_value_at_once() -> None:
    with serving(FakeVerifier()) as address, Client(address) as client:
        stream = client.generate("overload")
        with pytest.raises(lookahead.client.ResourceExhausted):
            stream.wait()
        with pytest.raises(lookahead.client.InvalidRequest, match="max_tokens"):
            client.generate("once", max_tokens=-1)
        with pytest.raises(TypeError, match="colour"):
            client.generate("once", colour="red")  # type: ignore[call-arg]
