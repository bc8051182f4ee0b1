"""What the gateway refuses, and how: by name, in OpenAI's form, before any work is done."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import openai
import pytest
from openai import OpenAI

from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, StoppingVerifier, serving
from tests.support.servers.running_gateway import Host, gateway, host

pytestmark = pytest.mark.clients

MESSAGES = [{"role": "user", "content": "hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
IMAGE = {"type": "image_url", "text": "x"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture(scope="module")
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture(scope="module")
def client(loop: Host, verifier: FakeVerifier) -> Iterator[httpx.Client]:
    settings = {"max_body_bytes": 4096, "read_timeout_s": 0.5, "max_choices": 4}
    with (
        serving(verifier) as address,
        loop.holding(gateway(address, **settings)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
    ):
        yield client


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error of a refusal, having checked its form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def ask(client: httpx.Client, path: str = COMPLETIONS, **fields: Any) -> httpx.Response:
    base = {"messages": MESSAGES} if path == CHAT else {"prompt": "once"}
    return client.post(path, json={**base, **fields})


@pytest.mark.parametrize(
    ("path", "param", "value"),
    [
        (COMPLETIONS, "prompt", None),
        (COMPLETIONS, "prompt", 7),
        (COMPLETIONS, "prompt", []),
        (COMPLETIONS, "prompt", ["a", 1]),
        (COMPLETIONS, "prompt", [[1], "a"]),
        (COMPLETIONS, "prompt", [-1]),
        (COMPLETIONS, "prompt", [True]),
        (COMPLETIONS, "prompt", [1 << 32]),
        (COMPLETIONS, "echo", 1),
        (COMPLETIONS, "suffix", "end"),
        (COMPLETIONS, "best_of", 2),
        (COMPLETIONS, "messages", MESSAGES),
        (COMPLETIONS, "logprobs", True),
        (COMPLETIONS, "temperature", "0.5"),
        (COMPLETIONS, "temperature", True),
        (COMPLETIONS, "seed", 1.5),
        (COMPLETIONS, "seed", 1 << 64),
        (COMPLETIONS, "n", 0),
        (COMPLETIONS, "n", 5),
        (COMPLETIONS, "n", 1 << 70),
        (COMPLETIONS, "max_tokens", -1),
        (COMPLETIONS, "stop", 5),
        (COMPLETIONS, "stop[1]", ["a", 5]),
        (COMPLETIONS, "stop_token_ids[0]", ["a"]),
        (COMPLETIONS, "logit_bias.x", {"x": 1}),
        (COMPLETIONS, "logit_bias.5", {"5": "much"}),
        (COMPLETIONS, "top_k", -2),
        (COMPLETIONS, "frequency", 1),
        (COMPLETIONS, "lookahead.mode", {"mode": "fastest"}),
        (COMPLETIONS, "lookahead.speed", {"speed": 9}),
        (COMPLETIONS, "lookahead.namespace", {"namespace": "a b"}),
        (COMPLETIONS, "lookahead.namespace", {"namespace": "x" * 129}),
        (COMPLETIONS, "stream_options.usage", {"usage": True}),
        (COMPLETIONS, "user", 5),
        (CHAT, "messages", None),
        (CHAT, "messages[0].content", [{"role": "user"}]),
        (CHAT, "messages[0].nme", [{"role": "user", "content": "a", "nme": "b"}]),
        (CHAT, "messages[0].audio", [{"role": "user", "content": "a", "audio": {"id": "b"}}]),
        (CHAT, "messages[0].content[0].type", [{"role": "user", "content": [IMAGE]}]),
        (CHAT, "tools[0].function", [{"type": "function"}]),
        (CHAT, "tools[0].type", [{"type": "custom", "function": {"name": "a"}}]),
        (
            CHAT,
            "tools[0].function.nme",
            [{"type": "function", "function": {"name": "a", "nme": "a"}}],
        ),
        (CHAT, "tool_choice", "any"),
        (CHAT, "tool_choice", {"type": "function", "function": {}}),
        (CHAT, "parallel_tool_calls", "no"),
        (CHAT, "messages[0].tool_calls[0].function", [{"role": "a", "tool_calls": [{"id": "1"}]}]),
        (CHAT, "logprobs", 3),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "web_search_options", {}),
        (CHAT, "prediction.type", {"type": "guess", "content": "a"}),
        (CHAT, "prediction.content", {"type": "content"}),
        (CHAT, "response_format.type", {"type": "xml"}),
        (CHAT, "response_format", {"type": "json_schema"}),
        (CHAT, "response_format", {"type": "text", "json_schema": {"schema": {}}}),
        (CHAT, "response_format.json_schema.schema", {"type": "json_schema", "json_schema": {}}),
    ],
)
def test_a_field_that_is_wrong_or_unknown_is_named(
    client: httpx.Client, verifier: FakeVerifier, path: str, param: str, value: Any
) -> None:
    before = len(verifier.requests)
    name = param.partition(".")[0].partition("[")[0]
    error = refused(ask(client, path, **{name: value}), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]
    assert len(verifier.requests) == before


@pytest.mark.parametrize(
    "fields",
    [{"stream_options": {"include_usage": True}}, {"max_tokens": 1, "max_completion_tokens": 1}],
)
def test_fields_that_do_not_go_together_are_named(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    message = refused(ask(client, CHAT, **fields), 400)["message"]
    assert all(name in message for name in fields)


def test_a_field_that_is_null_counts_as_not_given(client: httpx.Client) -> None:
    answer = ask(client, temperature=None, tools=None, logprobs=None, seed=1, max_tokens=5)
    assert answer.status_code == 200
    answered = [{"role": "assistant", "content": "a", "tool_calls": None, "refusal": None}]
    assert ask(client, CHAT, messages=answered).status_code == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "a", "prompt": "b"}', "twice"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": -Infinity}', "Infinity"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "a", "\\udc00": 1}', "surrogate"),
        (b'{"prompt": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "deep"),
        (b'{"prompt": "a", "x": ' + b"[" * 1900 + b"]" * 1900 + b"}", "deep"),
        (b'{"prompt": "a", "seed": ' + b"9" * 4000 + b"}", "seed"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(
    client: httpx.Client, body: bytes, word: str
) -> None:
    headers = {"content-type": "application/json"}
    assert word in refused(client.post(COMPLETIONS, content=body, headers=headers), 400)["message"]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_a_body_that_is_said_to_be_json_is_read(client: httpx.Client, kind: str) -> None:
    """A web page of another origin can send anything else without asking."""
    response = client.post(COMPLETIONS, content=b'{"prompt": "a"}', headers={"content-type": kind})
    assert "application/json" in refused(response, 415)["message"]


def test_a_body_that_is_too_long_is_refused_however_it_comes(client: httpx.Client) -> None:
    body = json.dumps({"prompt": "x" * 5000}).encode()
    headers = {"content-type": "application/json"}
    whole = client.post(COMPLETIONS, content=body, headers=headers)
    assert "4096" in refused(whole, 413)["message"]
    pieces = (body[i : i + 100] for i in range(0, len(body), 100))
    in_pieces = client.post(COMPLETIONS, content=pieces, headers=headers)
    assert "4096" in refused(in_pieces, 413)["message"]


def test_a_body_that_does_not_come_is_not_waited_for(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=10) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n"
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(1000).splitlines()[0]


def test_routes_and_methods_that_are_not_there_are_refused(client: httpx.Client) -> None:
    assert refused(client.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert refused(client.get(COMPLETIONS), 405)["code"] == "unknown_url"
    assert refused(client.post("/v1/models", json={}), 405)["code"] == "unknown_url"


def test_another_model_is_not_found_and_the_right_one_named(client: httpx.Client) -> None:
    error = refused(ask(client, model="gpt-9"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "'fake'" in error["message"]
    assert refused(client.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
    assert ask(client, model="fake").status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "field", "param"),
    [
        (COMPLETIONS, {"temperature": 101.0}, "sampling.temperature", "temperature"),
        (COMPLETIONS, {"prompt": "bad text"}, "text", "prompt"),
        (COMPLETIONS, {"prompt": "bad token_ids.ids[3]"}, "token_ids.ids[3]", "prompt[3]"),
        (COMPLETIONS, {"prompt": "bad stopping.max_tokens"}, "stopping.max_tokens", "max_tokens"),
        (COMPLETIONS, {"prompt": "bad stopping.stop_strings[1]"}, "", "stop[1]"),
        (COMPLETIONS, {"prompt": "bad stopping.stop_token_ids[1]"}, "", "stop_token_ids[1]"),
        (COMPLETIONS, {"prompt": "bad output.top_logprobs"}, "", "logprobs"),
        (COMPLETIONS, {"prompt": "bad sampling.logit_bias[7]"}, "", "logit_bias[7]"),
        (COMPLETIONS, {"prompt": "bad speculation.prediction"}, "", "prediction"),
        (COMPLETIONS, {"prompt": "bad speculation.max_nodes"}, "", "lookahead.max_nodes"),
        (COMPLETIONS, {"prompt": "bad constraint.json_schema"}, "", "response_format"),
    ],
)
def test_a_field_that_the_verifier_refuses_has_its_name_here(
    client: httpx.Client, path: str, fields: dict[str, Any], field: str, param: str
) -> None:
    error = refused(ask(client, path, **fields), 400)
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert error["message"].startswith(f"{param}: ")


def test_openais_client_raises_what_its_users_expect(client: httpx.Client) -> None:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="x", max_retries=0) as user:
        create = user.completions.create
        with pytest.raises(openai.BadRequestError, match="temperature") as caught:
            create(model="fake", prompt="a", temperature=101)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.NotFoundError):
            create(model="gpt-9", prompt="a")
        with pytest.raises(openai.RateLimitError) as busy:
            create(model="fake", prompt="overload")
        assert busy.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.APIError, match="without a final message"):
            list(create(model="fake", prompt="cut", max_tokens=99, stream=True))
        with pytest.raises(openai.InternalServerError, match="without a final message"):
            create(model="fake", prompt="cut", max_tokens=99)


def test_everything_arrives_in_the_contracts_fields(
    client: httpx.Client, verifier: FakeVerifier
) -> None:
    fields = {
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "short"}]}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"5": -100},
        "seed": -1,
        "max_completion_tokens": 9,
        "min_tokens": 2,
        "stop": "###",
        "stop_token_ids": [3, 4],
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "logprobs": True,
        "top_logprobs": 1,
        "prediction": {"type": "content", "content": "as before"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "lookahead": {
            "mode": "chain",
            "max_nodes": 3,
            "max_depth": 2,
            "namespace": "docs",
            "learn": "output",
            "draft_trees": True,
        },
    }
    headers = {"x-request-id": "mine"}
    answer = client.post(CHAT, json=fields, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    sent = verifier.requests[-1]
    json_schema = sent.constraint.json_schema
    assert json.loads(json_schema) == SCHEMA
    assert sent == pb.GenerateRequest(
        chat=pb.ChatMessages(messages=[pb.ChatMessage(role="system", content="short")]),
        sampling=pb.Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=0,
            min_p=0.1,
            repetition_penalty=1.5,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            logit_bias={5: -100},
            seed=(1 << 64) - 1,
            model_defaults=True,
        ),
        stopping=pb.Stopping(
            max_tokens=9,
            min_tokens=2,
            stop_strings=["###"],
            stop_token_ids=[3, 4],
            ignore_eos=True,
            include_stop_string=True,
        ),
        output=pb.Output(
            parts=True, logprobs=True, top_logprobs=1, special_tokens=True, draft_trees=True
        ),
        speculation=pb.Speculation(
            mode=pb.Speculation.MODE_CHAIN,
            max_nodes=3,
            max_depth=2,
            namespace="docs",
            learn=pb.Speculation.LEARNING_OUTPUT,
            prediction="as before",
        ),
        request_id="mine-0",
        constraint=pb.Constraint(json_schema=json_schema),
    )


def test_what_is_not_given_is_left_to_the_verifier_and_the_model(
    client: httpx.Client, verifier: FakeVerifier
) -> None:
    ask(client)
    sent = verifier.requests[-1]
    assert sent.stopping.max_tokens == 16
    given = {field.name for field, _ in sent.sampling.ListFields()}
    assert given == {"model_defaults", "seed"}
    assert not sent.HasField("constraint")
    assert sent.speculation == pb.Speculation()
    ask(client, CHAT, response_format={"type": "json_object"})
    assert not verifier.requests[-1].stopping.HasField("max_tokens")
    assert json.loads(verifier.requests[-1].constraint.json_schema) == {"type": "object"}


def test_a_request_id_that_could_break_a_log_line_is_replaced(client: httpx.Client) -> None:
    for given in ("a b", "x" * 101, "a=b"):
        answer = client.get("/health", headers={"x-request-id": given})
        assert answer.headers["x-request-id"] not in ("", given)


def test_a_chat_with_a_base_model_is_told_what_to_do(loop: Host) -> None:
    base = FakeVerifier(has_chat_template=False)
    with serving(base) as address, loop.holding(gateway(address)) as front:
        response = httpx.post(f"http://{front}{CHAT}", json={"messages": MESSAGES})
        error = refused(response, 400)
        assert (error["param"], error["code"]) == ("messages", "no_chat_template")
        assert "chat template" in error["message"] and "/v1/completions" in error["message"]
    assert not base.requests


def test_a_dead_stack_is_told_within_a_second_with_the_reason(loop: Host) -> None:
    with serving(FakeVerifier()) as address, ExitStack() as stack:
        front = stack.enter_context(loop.holding(gateway(address)))
        client = stack.enter_context(httpx.Client(base_url=f"http://{front}", timeout=10))
        assert ask(client).status_code == 200
        dead = address
    with loop.holding(gateway(dead)) as front, httpx.Client(base_url=f"http://{front}") as client:
        for _ in range(2):
            for response in (ask(client), ask(client, stream=True), client.get("/ready")):
                assert response.elapsed.total_seconds() < 1
                assert dead in refused(response, 503)["message"]
                assert int(response.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200


def test_a_verifier_that_dies_meanwhile_and_returns_is_found_again(loop: Host) -> None:
    with ExitStack() as first:
        address = first.enter_context(serving(FakeVerifier()))
        port = int(address.rpartition(":")[2])
        with (
            loop.holding(gateway(address)) as front,
            httpx.Client(base_url=f"http://{front}", timeout=10) as client,
        ):
            assert ask(client).status_code == 200
            first.close()
            response = ask(client)
            assert response.elapsed.total_seconds() < 1
            refused(response, 503)
            with serving(FakeVerifier(), port=port):
                deadline = time.monotonic() + 10
                while ask(client).status_code != 200:
                    assert time.monotonic() < deadline


def test_an_address_that_accepts_but_never_answers_is_told_within_a_second(loop: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with loop.holding(gateway(address)) as front:
            response = httpx.post(f"http://{front}{COMPLETIONS}", json={"prompt": "a"}, timeout=10)
    assert response.elapsed.total_seconds() < 1
    assert address in refused(response, 503)["message"]


def test_requests_take_turns_and_go_round_a_verifier_that_is_dead_or_full(loop: Host) -> None:
    with serving(FakeVerifier()) as address:
        dead = address
    one, two = FakeVerifier(), FakeVerifier()
    with (
        serving(one) as first,
        serving(two) as second,
        loop.holding(gateway(f"{first},{dead}, {second}", connect_timeout_s=3.0)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
    ):
        for _ in range(12):
            assert ask(client).json()["choices"][0]["finish_reason"] == "length"
        assert len(one.requests) >= 3 and len(two.requests) >= 3
        before = len(one.requests), len(two.requests)
        refused(ask(client, prompt="overload"), 429)
        assert (len(one.requests), len(two.requests)) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_request_that_a_stopping_verifier_turned_away_is_asked_again(
    loop: Host, status: grpc.StatusCode
) -> None:
    verifier = StoppingVerifier(status, turns_away=2)
    with (
        serving(verifier) as address,
        loop.holding(gateway(address)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
    ):
        assert ask(client).json()["choices"][0]["finish_reason"] == "length"
    assert len(verifier.requests) == 3


def test_too_many_requests_at_once_are_refused_but_the_process_is_alive(loop: Host) -> None:
    with (
        serving(FakeVerifier()) as address,
        loop.holding(gateway(address, max_requests=1)) as front,
        httpx.Client(base_url=f"http://{front}", timeout=10) as client,
        client.stream("POST", COMPLETIONS, json={"prompt": "forever", "stream": True}) as running,
    ):
        lines = running.iter_lines()
        next(lines)
        response = ask(client)
        assert refused(response, 429)["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        next(lines)


def test_a_shut_down_in_the_middle_is_an_error_and_no_short_answer(loop: Host) -> None:
    with (
        serving(FakeVerifier()) as address,
        loop.holding(gateway(address)) as front,
        OpenAI(base_url=f"http://{front}/v1", api_key="x", max_retries=0) as user,
    ):
        with pytest.raises(openai.InternalServerError, match="shut down"):
            user.completions.create(model="fake", prompt="shutdown")
        with pytest.raises(openai.APIError, match="shut down"):
            list(user.completions.create(model="fake", prompt="shutdown", stream=True))


def test_concurrent_requests_do_not_mix(client: httpx.Client) -> None:
    texts: dict[int, str] = {}

    def one(seed: int) -> None:
        texts[seed] = ask(client, seed=seed, max_tokens=9).json()["choices"][0]["text"]

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: ANSWER[seed : seed + 9] for seed in range(8)}
