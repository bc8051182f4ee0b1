"""API keys: who may ask, which memory they draw from, and what they may not see."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from lookahead.gateway.config import GatewayConfig
from tests.support.servers.fake_verifier import FakeVerifier, serving
from tests.support.servers.running_gateway import gateway, host

KEYS = {"key-of-acme": "acme", "another-of-acme": "acme", "key-of-umbrella": "umbrella"}
ROUTES = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/view/anything"),
    ("GET", "/nowhere"),
]


@pytest.fixture(scope="module")
def verifier() -> FakeVerifier:
    return FakeVerifier()


@contextmanager
def asking(verifier: FakeVerifier, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a gateway with these settings."""
    with (
        host() as loop,
        serving(verifier) as address,
        loop.holding(gateway(address, **settings)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(verifier: FakeVerifier) -> Iterator[httpx.Client]:
    with asking(verifier, keys=KEYS) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def namespace(
    client: httpx.Client, verifier: FakeVerifier, key: str = "key-of-acme", **fields: Any
) -> str:
    """Return the memory that the verifier was told to use."""
    body = {"prompt": "a", **fields}
    client.post("/v1/completions", json=body, headers=bearer(key)).raise_for_status()
    return verifier.requests[-1].speculation.namespace


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"authorization": "Bearer"},
        bearer('""'),
        bearer("key-of-acm"),
        bearer("key-of-acme2"),
        {"authorization": "key-of-acme"},
        {"authorization": "Basic !!!"},
        {"x-api-key": "key-of-acm"},
        {"api-key": "wrong"},
    ],
)
def test_every_route_refuses_whoever_has_no_key(
    client: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    response = client.request(method, path, headers=headers, json={} if method == "POST" else None)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "www-authenticate" in response.headers
    assert not any(key in response.text for key in KEYS)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_key_opens_every_route(client: httpx.Client) -> None:
    for path in ("/v1/models", "/metrics"):
        assert client.get(path, headers=bearer("key-of-umbrella")).status_code == 200


def test_a_browser_may_send_the_key_as_a_password(client: httpx.Client) -> None:
    assert client.get("/v1/models", auth=("anyone", "key-of-acme")).status_code == 200
    assert client.get("/v1/models", auth=("key-of-acme", "")).status_code == 401
    assert client.get("/", auth=("", "")).headers["www-authenticate"].startswith("Basic")


def test_each_key_has_its_namespace_and_can_only_narrow_it(
    client: httpx.Client, verifier: FakeVerifier
) -> None:
    assert namespace(client, verifier) == "acme"
    assert namespace(client, verifier, "another-of-acme") == "acme"
    assert namespace(client, verifier, "key-of-umbrella") == "umbrella"
    for inner in ("docs", "umbrella", "..", "default", "."):
        narrow = namespace(client, verifier, lookahead={"namespace": inner})
        assert narrow == f"acme.{inner}"
    too_long = {"prompt": "a", "lookahead": {"namespace": "x" * 125}}
    response = client.post("/v1/completions", json=too_long, headers=bearer("key-of-acme"))
    assert response.json()["error"]["param"] == "lookahead.namespace"


def test_users_and_salts_part_the_memory_without_being_told(
    client: httpx.Client, verifier: FakeVerifier
) -> None:
    found = [
        namespace(client, verifier),
        namespace(client, verifier, user="jane@example.org"),
        namespace(client, verifier, user="joe@example.org"),
        namespace(client, verifier, cache_salt="jane@example.org"),
        namespace(client, verifier, user="jane@example.org", cache_salt="s"),
        namespace(client, verifier, user="jane@example.org", lookahead={"namespace": "docs"}),
        namespace(client, verifier, "key-of-umbrella", user="jane@example.org"),
    ]
    assert len(set(found)) == len(found)
    assert all(name.startswith("acme") for name in found[:-1])
    assert not any("jane" in name or "example" in name for name in found)
    assert found[1] == namespace(client, verifier, user="jane@example.org")


def test_draft_trees_hold_others_text_and_are_not_shown_where_keys_part_users(
    client: httpx.Client,
) -> None:
    body = {"prompt": "a", "lookahead": {"draft_trees": True}}
    response = client.post("/v1/completions", json=body, headers=bearer("key-of-acme"))
    assert (response.status_code, response.json()["error"]["param"]) == (
        400,
        "lookahead.draft_trees",
    )
    assert GatewayConfig().allows_draft_trees
    assert not GatewayConfig(keys=KEYS).allows_draft_trees
    assert GatewayConfig(keys=KEYS, draft_trees=True).allows_draft_trees
    assert not GatewayConfig(draft_trees=False).allows_draft_trees


def test_keys_are_read_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    assert GatewayConfig(keys_file=path).api_keys() == KEYS
    monkeypatch.setenv("LOOKAHEAD_GATEWAY_KEYS", json.dumps(KEYS))
    config = GatewayConfig()
    assert config.api_keys() == KEYS
    assert not any(key in repr(config) for key in KEYS)


def test_a_changed_file_of_keys_counts_at_once_and_a_broken_one_changes_nothing(
    verifier: FakeVerifier, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"old": "acme"}))
    with asking(verifier, keys_file=path) as client:

        def put(text: str) -> None:
            part = tmp_path / "part"
            part.write_text(text)
            part.replace(path)

        def statuses() -> list[int]:
            return [
                client.get("/v1/models", headers=bearer(key)).status_code for key in ("old", "new")
            ]

        assert statuses() == [200, 401]
        put(json.dumps({"new": "acme"}))
        assert statuses() == [401, 200]
        for broken in ("{", "{}", json.dumps({"new": "a b"})):
            put(broken)
            assert statuses() == [401, 200]
        path.unlink()
        assert statuses() == [401, 200]
        put(json.dumps({"old": "acme", "new": "acme"}))
        assert statuses() == [200, 200]


def test_a_key_may_be_kept_as_its_hash(verifier: FakeVerifier) -> None:
    hashed = f"sha256:{hashlib.sha256(b'secret').hexdigest()}"
    with asking(verifier, keys={hashed: "acme"}) as client:
        assert client.get("/v1/models", headers=bearer("secret")).status_code == 200
        assert client.get("/v1/models", headers=bearer(hashed)).status_code == 401


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"keys": {"sha256:12": "acme"}}, "64 hexadecimal digits"),
        ({"https_cert": "cert.pem"}, "https_cert"),
        ({"keys": {"k": "a b"}}, "namespace 'a b'"),
        ({"keys": {"k": ""}}, "namespace ''"),
        ({"keys": {"": "acme"}}, "empty"),
        ({"keys": {"k": "acme", "l": "acme.docs"}}, "'acme.docs' lies inside 'acme'"),
        ({"keys": {"k": "acme"}, "keys_file": "keys.json"}, "not both"),
        ({"keys_file": "no-such-file"}, "cannot read no-such-file"),
        ({"listen": "8000"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"verifier": "a:1,,b:2"}, "commas"),
        ({"tls_cert": "cert.pem"}, "verifier_ca"),
        ({"tls_cert": "cert.pem", "verifier_ca": "ca.pem"}, "tls_key"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GatewayConfig(**settings)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"k": 5}'])
def test_a_file_of_keys_that_is_none_stops_the_process(tmp_path: Path, text: str) -> None:
    """Rather than to serve everybody."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ValidationError, match=r"keys\.json"):
        GatewayConfig(keys_file=path)


@pytest.mark.slow
def test_a_bad_setting_is_told_without_its_value() -> None:
    secret = "sk-secret"
    environ = {**os.environ, "LOOKAHEAD_GATEWAY_KEYS": json.dumps({secret: "a b"})}
    done = subprocess.run(
        [sys.executable, "-m", "lookahead.gateway"], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "namespace 'a b'" in done.stderr
    assert secret not in done.stderr + done.stdout


def test_the_account_is_the_keys_whatever_a_request_narrows(
    client: httpx.Client, verifier: FakeVerifier
) -> None:
    for fields in ({}, {"user": "7"}, {"cache_salt": "x"}, {"lookahead": {"namespace": "inner"}}):
        namespace(client, verifier, **fields)
        assert verifier.requests[-1].account == "acme"
    namespace(client, verifier, "key-of-umbrella", user="7")
    assert verifier.requests[-1].account == "umbrella"


def test_a_key_that_floods_leaves_room_for_others() -> None:
    body = {"prompt": "forever", "stream": True}
    with (
        host() as loop,
        serving(FakeVerifier(pause_s=0.02)) as address,
        loop.holding(gateway(address, keys=KEYS, max_requests=6)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
        ExitStack() as streams,
    ):

        def status(key: str) -> int:
            started = client.stream("POST", "/v1/completions", json=body, headers=bearer(key))
            return streams.enter_context(started).status_code

        keys = ["key-of-acme", "another-of-acme"] * 3
        assert [status(key) for key in keys] == [200, 200, 200, 200, 429, 429]
        assert status("key-of-umbrella") == 200
