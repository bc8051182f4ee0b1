"""What the grammar of an answer allows, the parser takes apart: in every form, however it comes."""

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.models.written_calls import Call, read, written
from verifier.chat.forms import BY_NAME, FORMS, recognised
from verifier.chat.grammar import AnswerGrammar
from verifier.chat.parser import AnswerParser
from verifier.chat.tools import Choice, Tool, ToolUse
from verifier.config import VerifierConfig
from verifier.constraints.constraint import Constraint, Kind
from verifier.constraints.grammar import ConstraintMatcher

WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city"],
        }
    ),
)
NOTE = Tool(
    "note",
    "",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "lines": {"type": "array", "items": {"type": "string"}},
                "is_new": {"type": "boolean"},
                "at": {"$ref": "#/$defs/place"},
            },
            "required": ["lines", "is_new"],
            "$defs": {
                "place": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}},
                    "required": ["x"],
                    "additionalProperties": False,
                }
            },
        }
    ),
)
PING = Tool("ping")
TOOLS = (WEATHER, NOTE, PING)
TOKENIZER = small_tokenizer("byte_level")
ALL = pytest.mark.parametrize("name", [form.name for form in FORMS])

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x7f<>["), max_size=12)


def in_order(arguments: dict[str, Any]) -> dict[str, Any]:
    """As the schema has them, and as the grammar wants them."""
    order = ["city", "unit", "days", "lines", "is_new", "at"]
    return {key: arguments[key] for key in order if key in arguments}


weather = st.fixed_dictionaries(
    {"city": texts}, optional={"unit": st.sampled_from("CF"), "days": st.integers(1, 9)}
)
places = st.fixed_dictionaries({"x": st.sampled_from([0, -1.5, 20])})
notes = st.fixed_dictionaries(
    {"lines": st.lists(texts, max_size=3), "is_new": st.booleans()}, optional={"at": places}
)
calls = st.one_of(
    weather.map(lambda found: ("get_weather", in_order(found))),
    notes.map(lambda found: ("note", in_order(found))),
    st.just(("ping", {})),
)


@cache
def start(name: str, use: ToolUse, content: str = "") -> ConstraintMatcher:
    lark = AnswerGrammar(BY_NAME[name], use, {}, content=content).lark()
    return TOKENIZER.grammars.compile(Constraint(Kind.ANSWER, (lark,))).start()


def num_followed(matcher: ConstraintMatcher, text: str) -> int:
    """How many bytes of `text` the grammar follows; -1 if it takes all and may end there."""
    ids = [byte_ids()[byte] for byte in text.encode()]
    copy = matcher._matcher.deep_copy()
    num_taken = copy.try_consume_tokens(ids)
    return -1 if num_taken == len(ids) and copy.is_accepting() else num_taken


@cache
def byte_ids() -> dict[int, int]:
    return {name[0]: i for i, name in enumerate(TOKENIZER.grammars._names) if len(name) == 1}


def pieces_of(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.choice([0, 3, len(text)])))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@ALL
@settings(max_examples=40)
@given(made=st.lists(calls, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_calls_are_allowed_and_read_back(name: str, made: list[Call], seed: int) -> None:
    form, use = BY_NAME[name], ToolUse(TOOLS)
    made = made if form.between is not None else made[:1]
    content = "" if form.content_open or not form.trigger else "I look.\n"
    answer = written(form, made, content)
    assert num_followed(start(name, use), answer) == -1
    found = read(AnswerParser(form, use), pieces_of(answer, random.Random(seed)))
    assert found.calls == made
    assert found.content == content.rstrip()


@ALL
@settings(max_examples=30)
@given(text=texts, seed=st.integers(0, 99))
def test_what_is_no_call_is_content(name: str, text: str, seed: int) -> None:
    form, use = BY_NAME[name], ToolUse(TOOLS)
    if not form.trigger:
        text = f"x{text}"
    answer = f"{form.content_open}{text}"
    assert num_followed(start(name, use), answer) == -1
    assert read(AnswerParser(form, use), pieces_of(answer, random.Random(seed))).content == text


@ALL
@pytest.mark.parametrize(
    "call",
    [
        ("get_weather", {"city": "Rome", "days": 12}),
        ("get_weather", {"unit": "C"}),
        ("get_weather", {"city": "Rome", "unit": "K"}),
        ("get_weather", {"city": "Rome", "extra": 1}),
        ("note", {"lines": "a", "is_new": True}),
        ("ping", {"x": 1}),
        ("pong", {}),
    ],
)
def test_calls_that_do_not_satisfy_their_schema_are_impossible(name: str, call: Call) -> None:
    answer = written(BY_NAME[name], [call])
    for use in (ToolUse(TOOLS), ToolUse(TOOLS, Choice.REQUIRED)):
        assert 0 <= num_followed(start(name, use), answer) < len(answer.encode())


@ALL
def test_tool_choice_is_kept(name: str) -> None:
    form = BY_NAME[name]
    ping, note = ("ping", {}), ("note", {"lines": [], "is_new": True})
    call = written(form, [ping])
    begins = len((form.trigger + form.opening + form.head).encode())
    required = start(name, ToolUse(TOOLS, Choice.REQUIRED))
    assert num_followed(required, call) == -1
    assert num_followed(required, f"{form.content_open}Well") < max(begins, 1)
    named = start(name, ToolUse(TOOLS, Choice.REQUIRED, "ping", is_single=True))
    assert num_followed(named, call) == -1
    assert num_followed(named, written(form, [note])) == begins
    assert num_followed(named, written(form, [ping, ping])) != -1
    none = start(name, ToolUse(TOOLS, Choice.NONE))
    assert 0 <= num_followed(none, call) <= begins
    assert num_followed(none, f"{form.content_open}Well") == -1


@ALL
def test_a_text_that_is_no_call_may_have_a_form_of_its_own(name: str) -> None:
    form = BY_NAME[name]
    matcher = start(name, ToolUse(TOOLS), content='%json {"type": "integer"}')
    assert num_followed(matcher, f"{form.content_open}12") == -1
    assert num_followed(matcher, f"{form.content_open}well") == len(form.content_open.encode())
    assert num_followed(matcher, written(form, [("ping", {})])) == -1


@ALL
def test_a_call_that_is_cut_off_has_the_arguments_so_far(name: str) -> None:
    form, use = BY_NAME[name], ToolUse(TOOLS)
    whole = written(form, [("get_weather", {"city": "Rome by the sea"})])
    found = read(AnswerParser(form, use), [whole[: whole.index(" sea")]])
    assert found.names == ["get_weather"]
    assert found.arguments == ['{"city": "Rome by the']


KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.note:0<|tool_call_argument_begin|>"
    '{"lines": ["a:b"], "is_new": true}<|tool_call_end|><|tool_call_begin|>functions.ping:12'
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
)


def test_calls_of_kimi_have_numbers() -> None:
    parser = AnswerParser(BY_NAME["kimi"], ToolUse(TOOLS))
    found = read(parser, list("So: " + KIMI_CALL))
    assert found.content == "So:"
    assert found.calls == [("note", {"lines": ["a:b"], "is_new": True}), ("ping", {})]


def test_forms_are_recognised_in_templates() -> None:
    for form in FORMS:
        marks = f"{form.marks} func_name1(params_name1= <arg_key> <|start_header_id|>"
        keep = marks if form.name in ("glm", "pythonic") else "".join(form.marks)
        if form.name == "llama-json":
            keep += "<|start_header_id|>"
        if form.name == "qwen-xml":
            keep = keep + "<parameter="
        if form.name == "glm":
            keep = "".join(form.marks) + "<arg_key>"
        if form.name == "pythonic":
            keep = "[func_name1(params_name1=params_value1)]"
        found = recognised(f"{{% if tools %}}{keep}")
        assert found is form, form.name
    assert recognised("{{ messages }} <tool_call>") is None


def test_the_setting_offers_every_form() -> None:
    offered = VerifierConfig.model_fields["tool_format"].annotation.__args__  # type: ignore[union-attr]
    assert set(offered) == {"auto", *BY_NAME}
