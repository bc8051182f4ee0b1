"""What clients count on beside words: routes without /v1, other origins, comments, other names."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import DEFAULT_TEMPERATURE, FakeVerifier, serving
from tests.support.servers.running_gateway import gateway, host

ORIGIN = "https://chat.example.org"
MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.fixture(scope="module")
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture(scope="module")
def client(verifier: FakeVerifier) -> Iterator[httpx.Client]:
    settings: dict[str, Any] = {
        "allowed_origins": f"{ORIGIN}, https://b.example",
        "keys": {"k": "n"},
    }
    with (
        host() as loop,
        serving(verifier) as address,
        loop.holding(gateway(address, **settings)) as front,
        httpx.Client(
            base_url=f"http://{front}", timeout=10, headers={"authorization": "Bearer k"}
        ) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completions", {"prompt": "a"}),
        ("/chat/completions", {"messages": MESSAGES}),
        ("/responses", {"input": "a"}),
    ],
)
def test_routes_work_without_their_version(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    body = {"seed": 1, **body}
    plain, versioned = (client.post(where, json=body).json() for where in (path, f"/v1{path}"))
    assert plain.keys() == versioned.keys()
    assert plain["model"] == "fake"
    assert client.get("/models").json()["data"][0]["id"] == "fake"


def test_pages_of_allowed_origins_may_use_the_api(client: httpx.Client) -> None:
    asks = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
        "authorization": "",  # a browser asks without a key
    }
    asked = client.options("/v1/chat/completions", headers=asks)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in asked.headers["access-control-allow-headers"]
    answer = client.post("/v1/completions", json={"prompt": "a"}, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    other = client.post("/v1/completions", json={"prompt": "a"}, headers={"origin": "https://x"})
    assert "access-control-allow-origin" not in other.headers
    assert client.options("/v1/completions", headers=asks | {"origin": "https://x"}).is_error


ASKED = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
}


@pytest.mark.parametrize("path", ASKED)
def test_the_answer_says_the_parameters_in_force(client: httpx.Client, path: str) -> None:
    asked = client.post(path, json=ASKED[path]).json()["lookahead"]["parameters"]
    assert asked["temperature"] == DEFAULT_TEMPERATURE
    given = client.post(path, json={**ASKED[path], "temperature": 0.1, "top_k": 3}).json()
    assert given["lookahead"]["parameters"]["temperature"] == 0.1
    assert given["lookahead"]["parameters"]["top_k"] == 3
    if path == "/v1/responses":
        assert given["temperature"] == 0.1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_json": SCHEMA}, pb.Constraint(json_schema=json.dumps(SCHEMA))),
        ({"guided_json": json.dumps(SCHEMA)}, pb.Constraint(json_schema=json.dumps(SCHEMA))),
        ({"guided_regex": "a+"}, pb.Constraint(regex="a+")),
        ({"guided_choice": ["a", "b"]}, pb.Constraint(choices=pb.Choices(texts=["a", "b"]))),
        ({"structured_outputs": {"json": SCHEMA}}, pb.Constraint(json_schema=json.dumps(SCHEMA))),
        ({"structured_outputs": {"regex": "a+"}}, pb.Constraint(regex="a+")),
        ({"structured_outputs": {"choice": ["a"]}}, pb.Constraint(choices=pb.Choices(texts=["a"]))),
        (
            {"structured_outputs": {"json_object": True}},
            pb.Constraint(json_schema='{"type": "object"}'),
        ),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"guided_grammar": "g"}, pb.Constraint(grammar="g")),
        ({"structured_outputs": {"grammar": "g"}}, pb.Constraint(grammar="g")),
    ],
)
def test_forms_have_the_names_that_vllm_gives_them(
    client: httpx.Client, verifier: FakeVerifier, fields: dict[str, Any], expected: Any
) -> None:
    for path, base in (
        ("completions", {"prompt": "a"}),
        ("chat/completions", {"messages": MESSAGES}),
    ):
        answer = client.post(f"/v1/{path}", json={**base, **fields})
        assert answer.status_code == 200, answer.text
        sent = verifier.requests[-1]
        assert (sent.constraint if sent.HasField("constraint") else None) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, ("guided_regex", "guided_choice")),
        (
            {"guided_json": {}, "response_format": {"type": "json_object"}},
            ("response_format", "guided_json"),
        ),
        ({"structured_outputs": {}}, ("structured_outputs", "exactly one")),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, ("structured_outputs", "one")),
        ({"structured_outputs": {"grammar": "a", "regex": "a"}}, ("structured_outputs", "one")),
        ({"structured_outputs": {"structural_tag": "a"}}, ("structured_outputs.structural_tag",)),
        ({"echo": True, "stream": True}, ("echo: cannot be streamed",)),
        ({"prompt_logprobs": 1, "stream": True}, ("prompt_logprobs: cannot be streamed",)),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], words: tuple[str, ...]
) -> None:
    answer = client.post("/v1/completions", json={"prompt": "a", **fields})
    assert answer.status_code == 400
    assert all(word in answer.json()["error"]["message"] for word in words)


def test_the_field_that_says_a_wrong_form_is_named(client: httpx.Client) -> None:
    body = {"prompt": "bad constraint.regex", "guided_regex": "("}
    assert client.post("/v1/completions", json=body).json()["error"]["param"] == "guided_regex"


def test_a_stream_that_waits_says_that_it_lives(verifier: FakeVerifier) -> None:
    slow = FakeVerifier(pause_s=0.5)
    with (
        host() as loop,
        serving(slow) as address,
        loop.holding(gateway(address, keep_alive_s=0.1)) as front,
    ):
        body = {"prompt": "a", "stream": True, "max_tokens": 10, "temperature": 0}
        text = httpx.post(f"http://{front}/v1/completions", json=body, timeout=20).text
    lines = text.split("\n\n")
    assert lines.count(": waiting") >= 2
    events = [line for line in lines if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    said = "".join(json.loads(line[6:])["choices"][0]["text"] for line in events[:-1])
    assert said == "and so the"
