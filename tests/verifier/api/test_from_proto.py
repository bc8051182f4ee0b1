"""Every field of a request is checked; all that is wrong is said at once, with path and value."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import verifier_pb2 as pb
from rpc.contract import Learn
from rpc.errors import InvalidRequest
from tests.support.models.small_tokenizers import small_tokenizer
from verifier.api.from_proto import parse_detokenize, parse_generate, parse_tokenize
from verifier.api.params import usable_defaults
from verifier.api.to_proto import detokenized_reply, started_reply
from verifier.api.validation import Limits
from verifier.chat.format import ChatFormat
from verifier.request import Mode, Request

TOKENIZER = small_tokenizer("byte_level")
CHAT = ChatFormat(TOKENIZER)
LIMITS = Limits(
    vocabulary_size=TOKENIZER.size, max_context=100, max_nodes=24, max_depth=16, allows_drafts=True
)
GOOD = {"text": "the fox"}


def parse(fields: dict[str, Any], limits: Limits = LIMITS) -> Request:
    return parse_generate(ParseDict(fields, pb.GenerateRequest()), CHAT, limits)


def violations_of(fields: dict[str, Any], limits: Limits = LIMITS) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse(fields, limits)
    return {v.field: v.description for v in caught.value.violations}


BAD_INPUTS = [
    ({}, "input", ""),
    ({"text": ""}, "text", ""),
    ({"text": "x" * 3201}, "text", "3201"),
    ({"text": "the fox " * 90}, "text", "to leave room"),
    ({"tokenIds": {}}, "token_ids.ids", "0"),
    ({"tokenIds": {"ids": [1] * 100}}, "token_ids.ids", "100"),
    ({"tokenIds": {"ids": [1, 2, 4294967295]}}, "token_ids.ids[2]", "4294967295"),
    ({"tokenIds": {"ids": [TOKENIZER.size]}}, "token_ids.ids[0]", str(TOKENIZER.size)),
    ({"chat": {}}, "chat.messages", "0"),
    ({"chat": {"messages": [{"role": "user", "content": "x"}] * 1025}}, "chat.messages", "1025"),
    ({"chat": {"messages": [{"content": "hi"}]}}, "chat.messages[0].role", "''"),
    ({"chat": {"messages": [{"role": "a\nb"}]}}, "chat.messages[0].role", "a\\nb"),
    ({"chat": {"messages": [{"role": "r" * 65}]}}, "chat.messages[0].role", "rrr"),
    ({"chat": {"messages": [{"role": "u", "content": "y" * 3201}]}}, "chat.messages", "3201"),
    ({"chat": {"messages": [{"role": "tool", "content": "x"}]}}, "chat", "tools are not known"),
]
BAD_FIELDS = [
    ("sampling", {"temperature": -0.5}, "temperature", "-0.5"),
    ("sampling", {"temperature": "NaN"}, "temperature", "nan"),
    ("sampling", {"temperature": "Infinity"}, "temperature", "inf"),
    ("sampling", {"temperature": 101}, "temperature", "101"),
    ("sampling", {"topP": -0.1}, "top_p", "got -0.1"),
    ("sampling", {"topP": 1.01}, "top_p", "1.01"),
    ("sampling", {"topP": "NaN"}, "top_p", "nan"),
    ("sampling", {"minP": -0.1}, "min_p", "-0.1"),
    ("sampling", {"minP": 1.5}, "min_p", "1.5"),
    ("sampling", {"repetitionPenalty": 0}, "repetition_penalty", "got 0"),
    ("sampling", {"repetitionPenalty": 10.5}, "repetition_penalty", "10.5"),
    ("sampling", {"frequencyPenalty": -2.5}, "frequency_penalty", "-2.5"),
    ("sampling", {"presencePenalty": 2.5}, "presence_penalty", "2.5"),
    ("sampling", {"logitBias": {"9999999": 1}}, "logit_bias[9999999]", "9999999"),
    ("sampling", {"logitBias": {"3": 101}}, "logit_bias[3]", "101"),
    ("sampling", {"logitBias": {"3": "-Infinity"}}, "logit_bias[3]", "-inf"),
    ("sampling", {"logitBias": {str(i): 1 for i in range(1025)}}, "logit_bias", "1025"),
    ("stopping", {"maxTokens": 0}, "max_tokens", "0"),
    ("stopping", {"maxTokens": 100}, "max_tokens", "100"),
    ("stopping", {"maxTokens": 99}, "max_tokens", "99"),
    ("stopping", {"maxTokens": 4294967295}, "max_tokens", "4294967295"),
    ("stopping", {"minTokens": 5, "maxTokens": 4}, "min_tokens", "5"),
    ("stopping", {"minTokens": 100}, "min_tokens", "100"),
    ("stopping", {"stopStrings": ["a", ""]}, "stop_strings[1]", "empty"),
    ("stopping", {"stopStrings": ["é" * 129]}, "stop_strings[0]", "258"),
    ("stopping", {"stopStrings": ["a"] * 33}, "stop_strings", "33"),
    ("stopping", {"stopTokenIds": [1, 99999]}, "stop_token_ids[1]", "99999"),
    ("stopping", {"stopTokenIds": [1] * 33}, "stop_token_ids", "33"),
    ("output", {"topLogprobs": 21, "logprobs": True}, "top_logprobs", "21"),
    ("output", {"topLogprobs": 2}, "top_logprobs", "needs output.logprobs"),
    ("speculation", {"mode": 99}, "mode", "99"),
    ("speculation", {"learn": 99}, "learn", "99"),
    ("speculation", {"maxNodes": 0}, "max_nodes", "0"),
    ("speculation", {"maxNodes": 65}, "max_nodes", "65"),
    ("speculation", {"maxDepth": 0}, "max_depth", "0"),
    ("speculation", {"maxDepth": 1000000000}, "max_depth", "1000000000"),
    ("speculation", {"namespace": "a/b"}, "namespace", "a/b"),
    ("speculation", {"namespace": "n" * 129}, "namespace", "nnn"),
    ("speculation", {"prediction": "x" * 3201}, "prediction", "3201"),
    ("constraint", {"jsonSchema": '{"type":'}, "json_schema", "must be JSON"),
    ("constraint", {"jsonSchema": "NaN"}, "json_schema", "NaN"),
    ("constraint", {"jsonSchema": "[" * 65 + "]" * 65}, "json_schema", "64 deep"),
    ("constraint", {"jsonSchema": "[" * 20000 + "]" * 20000}, "json_schema", "64 deep"),
    ("constraint", {"jsonSchema": '"' + "x" * 65536 + '"'}, "json_schema", "65538"),
    ("constraint", {"jsonSchema": '{"type": "text"}'}, "json_schema", "text"),
    ("constraint", {"regex": ""}, "regex", "empty"),
    ("constraint", {"regex": "(a"}, "regex", "unclosed group"),
    ("constraint", {"regex": "a" * 8193}, "regex", "8193"),
    ("constraint", {"choices": {}}, "choices.texts", "0"),
    ("constraint", {"choices": {"texts": ["a"] * 257}}, "choices.texts", "257"),
    ("constraint", {"choices": {"texts": ["a", ""]}}, "choices.texts[1]", "empty"),
    ("constraint", {"choices": {"texts": ["a" * 1025]}}, "choices.texts[0]", "1025"),
]


@pytest.mark.parametrize(("fields", "path", "value"), BAD_INPUTS)
def test_a_bad_input_is_named(fields: dict[str, Any], path: str, value: str) -> None:
    found = violations_of(fields)
    assert list(found) == [path]
    assert value in found[path]


@pytest.mark.parametrize(("part", "fields", "name", "value"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_value(
    part: str, fields: dict[str, Any], name: str, value: str
) -> None:
    found = violations_of({**GOOD, part: fields})
    assert list(found) == [f"{part}.{name}"]
    assert value in found[f"{part}.{name}"]


@pytest.mark.parametrize("request_id", ["a\nb", "x" * 129, "\x00"])
def test_a_request_id_cannot_forge_log_lines(request_id: str) -> None:
    assert list(violations_of({**GOOD, "requestId": request_id})) == ["request_id"]


def test_all_violations_come_together() -> None:
    found = violations_of(
        {
            "requestId": "\t",
            "text": "",
            "sampling": {"temperature": -1, "topP": 2},
            "stopping": {"stopStrings": [""]},
            "output": {"topLogprobs": 3},
            "speculation": {"namespace": "ü", "maxNodes": 0},
        }
    )
    assert list(found) == [
        "request_id",
        "text",
        "sampling.temperature",
        "sampling.top_p",
        "stopping.stop_strings[0]",
        "output.top_logprobs",
        "speculation.max_nodes",
        "speculation.namespace",
    ]


@pytest.mark.parametrize("stopping", [{}, {"minTokens": 2, "stopTokenIds": [4]}])
def test_banning_every_token_is_refused(stopping: dict[str, Any]) -> None:
    limits = Limits(
        vocabulary_size=5, max_context=100, max_nodes=8, max_depth=8, allows_drafts=True
    )
    banned = 4 if stopping else 5
    biases = {str(token_id): -100 for token_id in range(banned)}
    fields = {"tokenIds": {"ids": [1]}, "sampling": {"logitBias": biases}, "stopping": stopping}
    assert list(violations_of(fields, limits)) == ["sampling.logit_bias"]
    biases.popitem()
    parse(fields, limits)


RECOMMENDED = {"temperature": 0.75, "top_k": 9, "repetition_penalty": 1.5}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, (0.0, 0, 1.0)),
        ({"modelDefaults": True}, (0.75, 9, 1.5)),
        ({"modelDefaults": True, "temperature": 0}, (0.0, 9, 1.5)),
        ({"modelDefaults": True, "topK": 0, "repetitionPenalty": 1}, (0.75, 0, 1.0)),
    ],
)
def test_what_the_model_recommends_is_taken_where_it_is_wanted(
    sampling: dict[str, Any], expected: tuple[float, int, float]
) -> None:
    limits = replace(LIMITS, recommended=RECOMMENDED)
    params = parse({**GOOD, "sampling": sampling}, limits).sampling
    assert (params.temperature, params.top_k, params.repetition_penalty) == expected


def test_a_model_that_recommends_nothing_is_sampled_as_it_is() -> None:
    params = parse({**GOOD, "sampling": {"modelDefaults": True}}).sampling
    assert (params.temperature, params.top_p, params.top_k) == (1.0, 1.0, 0)


def test_recommendations_out_of_range_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert usable_defaults({"temperature": 500, "top_k": -1, "min_p": 0.5}) == {
        "top_k": -1,
        "min_p": 0.5,
    }
    assert "recommendation_ignored temperature=500" in caplog.text
    limits = replace(LIMITS, recommended={"top_k": -1})
    assert parse({**GOOD, "sampling": {"modelDefaults": True}}, limits).sampling.top_k == 0


def test_a_prompt_may_be_read_without_a_token_for_its_log_probabilities() -> None:
    nothing = {**GOOD, "stopping": {"maxTokens": 0}}
    request = parse({**nothing, "output": {"promptLogprobs": 0}})
    assert (request.num_prompt_logprobs, request.stopping.max_tokens) == (0, 0)
    assert parse(GOOD).num_prompt_logprobs is None
    assert list(violations_of(nothing)) == ["stopping.max_tokens"]
    too_many = {**GOOD, "output": {"promptLogprobs": 21}}
    assert list(violations_of(too_many)) == ["output.prompt_logprobs"]


def test_stop_strings_that_are_special_tokens_are_known_by_their_ids() -> None:
    fields = {**GOOD, "stopping": {"stopStrings": ["<|turn|>", "x<|turn|>", "<s"]}}
    turn = TOKENIZER.special_tokens_in(["<|turn|>"])["<|turn|>"]
    assert parse(fields).stopping.stop_tokens == {turn: "<|turn|>"}
    # Where special tokens are shown, they are found in the text.
    assert parse({**fields, "output": {"specialTokens": True}}).stopping.stop_tokens == {}


def test_defaults_are_greedy_and_fill_the_context() -> None:
    request = parse(GOOD)
    assert request.sampling.is_greedy
    assert not request.sampling.has_processors
    assert request.stopping.max_tokens == 100 - len(request.prompt_token_ids)
    assert request.stopping.eos_token_ids == TOKENIZER.eos_token_ids
    speculation = request.speculation
    assert (speculation.mode, speculation.learn) == (Mode.AUTO, Learn.ALL)
    assert (speculation.max_nodes, speculation.max_depth) == (24, 16)
    assert speculation.namespace == "default"
    assert len(request.request_id) == 16


def test_zero_is_a_value_and_unset_seeds_differ() -> None:
    assert parse({**GOOD, "sampling": {"seed": "0", "temperature": 0}}).sampling.seed == 0
    seeds = {parse(GOOD).sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    top = parse({**GOOD, "sampling": {"seed": "18446744073709551615"}})
    assert top.sampling.seed == 2**64 - 1


def test_the_prompt_is_what_the_tokenizer_says() -> None:
    assert parse(GOOD).prompt_token_ids == tuple(TOKENIZER.encode("the fox"))
    assert parse({"tokenIds": {"ids": [4, 0, 4]}}).prompt_token_ids == (4, 0, 4)
    messages = [{"role": "user", "content": "the fox"}]
    chat = parse({"chat": {"messages": messages}})
    assert chat.prompt_token_ids == tuple(TOKENIZER.encode_chat(messages))


def test_server_limits_clamp_drafting_and_a_plain_model_turns_it_off() -> None:
    fields = {**GOOD, "speculation": {"mode": "MODE_TREE", "maxNodes": 64, "maxDepth": 3}}
    speculation = parse(fields).speculation
    assert (speculation.mode, speculation.max_nodes, speculation.max_depth) == (Mode.TREE, 24, 3)
    plain = Limits(
        vocabulary_size=TOKENIZER.size,
        max_context=100,
        max_nodes=24,
        max_depth=16,
        allows_drafts=False,
    )
    assert parse(fields, plain).speculation.mode is Mode.OFF


def test_ignored_eos_ids_do_not_end_the_output() -> None:
    request = parse({**GOOD, "stopping": {"ignoreEos": True, "stopTokenIds": [5]}})
    assert request.stopping.ending_ids == {5}


def test_a_constraint_is_compiled_once_and_echoed() -> None:
    forms: list[dict[str, Any]] = [
        {"grammar": 'start: "a"'},
        {"regex": "a+"},
        {"choices": {"texts": ["a", "b"]}},
        {"jsonSchema": "{}"},
    ]
    for constraint in forms:
        request = parse({**GOOD, "constraint": constraint})
        assert request.grammar is parse({**GOOD, "constraint": constraint}).grammar is not None
        started = started_reply(request, pb.GetModelResponse(model="m")).started
        assert started.constraint == ParseDict(constraint, pb.Constraint())


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"constraint": {}}, "constraint"),
        ({"constraint": {"regex": "a"}, "stopping": {"ignoreEos": True}}, "stopping.ignore_eos"),
        (
            {
                "constraint": {"regex": "a"},
                "sampling": {"logitBias": {str(i): -100 for i in TOKENIZER.eos_token_ids}},
            },
            "sampling.logit_bias",
        ),
    ],
)
def test_a_constraint_needs_a_kind_and_the_end_of_the_sequence(
    fields: dict[str, Any], path: str
) -> None:
    assert list(violations_of({**GOOD, **fields})) == [path]


def test_a_tokenizer_that_cannot_be_constrained_says_so() -> None:
    message = ParseDict({**GOOD, "constraint": {"regex": "a"}}, pb.GenerateRequest())
    with pytest.raises(InvalidRequest, match=r"constraint\.regex.*tokenizer"):
        parse_generate(message, ChatFormat(small_tokenizer("wordpiece")), LIMITS)


def test_effective_parameters_are_themselves_a_request_with_the_same_meaning() -> None:
    fields = {
        **GOOD,
        "requestId": "r-1",
        "sampling": {"temperature": 0.5, "topK": 7, "logitBias": {"3": -100, "4": 1.5}},
        "stopping": {"maxTokens": 9, "minTokens": 2, "stopStrings": ["ab"], "ignoreEos": True},
        "speculation": {"mode": "MODE_CHAIN", "learn": "LEARNING_NONE", "namespace": "n.1"},
    }
    request = parse(fields)
    started = started_reply(request, pb.GetModelResponse(model="m")).started
    assert started.num_prompt_tokens == len(request.prompt_token_ids)
    again = pb.GenerateRequest(
        text="the fox",
        request_id=started.request_id,
        sampling=started.sampling,
        stopping=started.stopping,
        speculation=started.speculation,
    )
    assert parse_generate(again, CHAT, LIMITS) == request


scalars = st.one_of(
    st.floats(width=32, allow_nan=True), st.sampled_from([0.0, 1.0, -1.0, 1e-40, 100.0])
)


@settings(max_examples=300, deadline=None)
@given(
    numbers=st.dictionaries(
        st.sampled_from(
            [
                "temperature",
                "top_p",
                "min_p",
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
            ]
        ),
        scalars,
    ),
    text=st.text(max_size=40),
    stop_strings=st.lists(st.text(max_size=90), max_size=10),
    ids=st.lists(st.integers(0, 2**32 - 1), max_size=40),
)
def test_any_request_is_parsed_or_refused(
    numbers: dict[str, float], text: str, stop_strings: list[str], ids: list[int]
) -> None:
    message = pb.GenerateRequest(
        text=text,
        sampling=pb.Sampling(**numbers),  # type: ignore[arg-type]
        stopping=pb.Stopping(stop_strings=stop_strings, stop_token_ids=ids),
        speculation=pb.Speculation(namespace=text, prediction=text),
    )
    before = MessageToDict(message)
    try:
        request = parse_generate(message, CHAT, LIMITS)
    except InvalidRequest as error:
        assert error.violations
    else:
        assert len(request.prompt_token_ids) + request.stopping.max_tokens <= LIMITS.max_context
        started_reply(request, pb.GetModelResponse())
    assert MessageToDict(message) == before


def test_tokenize_and_detokenize_check_their_input() -> None:
    with pytest.raises(InvalidRequest, match="input: is missing"):
        parse_tokenize(pb.TokenizeRequest(), CHAT, LIMITS)
    with pytest.raises(InvalidRequest, match="text: must be at most 3200 bytes, got 3201"):
        parse_tokenize(pb.TokenizeRequest(text="x" * 3201), CHAT, LIMITS)
    with pytest.raises(InvalidRequest, match=r"token_ids\[1\]"):
        parse_detokenize(pb.DetokenizeRequest(token_ids=[1, 99999]), LIMITS)
    ids = parse_tokenize(pb.TokenizeRequest(text="naïve"), CHAT, LIMITS)
    assert ids == tuple(TOKENIZER.encode("naïve"))
    bare = parse_tokenize(
        pb.TokenizeRequest(text="naïve", without_special_tokens=True), CHAT, LIMITS
    )
    assert ids[1:] == bare
    assert parse_detokenize(pb.DetokenizeRequest(token_ids=ids), LIMITS) == list(ids)
    plain = detokenized_reply(list(ids), TOKENIZER, special_tokens=False, each=False)
    assert (plain.text, list(plain.tokens)) == ("naïve", [])
    shown = detokenized_reply(list(ids), TOKENIZER, special_tokens=True, each=True)
    assert shown.text == "<s>naïve"
    assert [token.is_special for token in shown.tokens] == [True] + [False] * (len(ids) - 1)
    assert b"".join(token.spelled for token in shown.tokens[1:]).decode() == "naïve"


def test_a_tokenizer_whose_tokens_are_not_bytes_tells_none() -> None:
    reply = detokenized_reply([7], small_tokenizer("wordpiece"), special_tokens=False, each=True)
    assert reply.tokens[0].text
    assert reply.tokens[0].spelled == b""


def test_limits_that_say_the_same_as_another_are_taken_as_that() -> None:
    chosen = parse({**GOOD, "sampling": {"topP": 0, "topK": 1 << 31}}).sampling
    assert 0 < chosen.top_p < 1e-5
    assert chosen.top_k == TOKENIZER.size


def test_an_output_that_the_context_has_no_room_for_is_cut_if_the_server_says_so() -> None:
    clamping = replace(LIMITS, clamps=True)
    room = LIMITS.max_context - len(TOKENIZER.encode("the fox"))
    for wanted in (room + 1, 8192):
        request = parse({**GOOD, "stopping": {"maxTokens": wanted}}, clamping)
        assert request.stopping.max_tokens == room
    assert "max_tokens" in str(violations_of({**GOOD, "stopping": {"maxTokens": 0}}, clamping))
    said = violations_of({**GOOD, "stopping": {"maxTokens": room + 1}})["stopping.max_tokens"]
    assert f"at most {room} to leave room in the context of 100" in said
