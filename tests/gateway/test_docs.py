"""docs/api.md and docs/grpc.md tell everything there is, and their commands work."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel
from starlette.routing import Route

import lookahead.gateway
from lookahead.gateway import schema
from lookahead.gateway.chat import schema as chat_schema
from lookahead.gateway.completions import schema as completions_schema
from lookahead.gateway.messages import schema as messages_schema
from lookahead.gateway.responses import schema as responses_schema
from lookahead.gateway.routes import Routes
from lookahead.gateway.tokens import schema as tokens_schema
from protos.reference import TARGET, reference
from tests.support import ROOT
from tests.support.servers.running_gateway import gateway, host
from tests.support.servers.running_verifier import verifier

API = (ROOT / "docs" / "api.md").read_text()
PACKAGE = Path(lookahead.gateway.__file__).parent
COMMANDS = re.findall(r"```sh\n(.*?)```", API, re.DOTALL)
README = (ROOT / "README.md").read_text()
COMMANDS += re.findall(r"```\n(curl .*?)```", README, re.DOTALL)
TIMEOUT_S = 30.0
SCHEMAS = (
    schema,
    chat_schema,
    completions_schema,
    messages_schema,
    responses_schema,
    tokens_schema,
)
# A documented command that is refused fails, and says with what.
STRICT_CURL = 'curl() { command curl --fail-with-body --silent --show-error "$@"; }\n'


def mentions(name: str) -> bool:
    return re.search(rf"`[^`]*\b{re.escape(name)}\b[^`]*`", API) is not None


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with (
        host() as loop,
        loop.holding(verifier(max_context=1000)) as (behind, _),
        loop.holding(gateway(behind)) as front,
    ):
        yield front


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_documented_command_works(address: str, command: str) -> None:
    if shutil.which("curl") is None:
        if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("curl is not installed")
        pytest.skip("needs curl")
    script = STRICT_CURL + command.replace("localhost:8000", address)
    environ = {**os.environ, "LOOKAHEAD_API_KEY": "any"}
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=TIMEOUT_S, env=environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert '"error":{' not in done.stdout


def test_the_reference_of_the_contract_is_that_of_the_protos() -> None:
    assert TARGET.read_text() == reference(), "run make protos"


def test_every_request_field_is_documented() -> None:
    models = [
        model
        for module in SCHEMAS
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    ]
    fields = {f.alias or name for model in models for name, f in model.model_fields.items()}
    assert len(fields) > 40
    assert {name for name in fields if not mentions(name)} == set()


@pytest.mark.slow
def test_every_field_about_drafting_is_documented(address: str) -> None:
    body = {"prompt": "a", "max_tokens": 2, "lookahead": {"exactness": "fast"}}
    answer = httpx.post(f"http://{address}/v1/completions", json=body).json()
    assert len(answer["lookahead"]) > 10
    assert {name for name in answer["lookahead"] if not mentions(name)} == set()


def test_every_route_is_documented() -> None:
    routes = Routes.__new__(Routes).table()  # the table needs nothing of what is behind it
    found = {
        f"{method} {route.path.replace(':path', '')}"
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert len(found) > 8
    assert {route for route in found if f"`{route}`" not in API} == set()


def test_every_error_is_documented() -> None:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    statuses = set(re.findall(r"(?:ApiError|_later)\(\s*(\d{3})", source))
    codes = set(re.findall(r'code(?: =|=) ?"(\w+)"', source))
    assert len(statuses) > 8 and len(codes) > 8
    assert {status for status in statuses if f"| {status} |" not in API} == set()
    assert {code for code in codes if not mentions(code)} == set()
