"""Whatever a model would like to say, its calls satisfy their schemas, drafted or not."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.models.bfcl_tools import bfcl_tools
from tests.support.models.constrained_runs import SAMPLINGS, TEXT, Outcome, knowing, model, run
from tests.support.models.engine_runs import ids_of, make_request
from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.models.written_calls import ReadAnswer, find, read
from verifier.chat.format import ChatFormat
from verifier.chat.forms import FORMS
from verifier.chat.tools import Choice, Tool, ToolUse
from verifier.constraints.constraint import Constraint
from verifier.request import Mode, Request
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import FinishReason

SHORT_TEXT = {"type": "string", "maxLength": 5}
PROPERTIES: list[dict[str, Any]] = [
    SHORT_TEXT,
    {"type": "string", "enum": ["a", "bc", "é\n"]},
    {"type": "integer", "minimum": -3, "maximum": 40},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"], "maxLength": 3},
    {"anyOf": [{"type": "boolean"}, SHORT_TEXT]},
    {"type": "array", "items": {"enum": [1, "x"]}, "maxItems": 3},
    {
        "type": "object",
        "properties": {"in": SHORT_TEXT},
        "required": ["in"],
        "additionalProperties": False,
    },
    {"$ref": "#/$defs/size"},
    {"const": 7},
]
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def tools(draw: st.DrawFn) -> Tool:
    properties = draw(st.dictionaries(names, st.sampled_from(PROPERTIES), max_size=4))
    required = (
        draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    )
    schema = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    schema["$defs"] = {"size": {"type": "integer", "minimum": 1, "maximum": 3}}
    return Tool(draw(names), draw(st.sampled_from(["", "Does it."])), json.dumps(schema))


def some_tools() -> st.SearchStrategy[tuple[Tool, ...]]:
    chosen = st.lists(tools(), min_size=1, max_size=3, unique_by=lambda tool: tool.name)
    return chosen.map(tuple)


def request(
    kind: str, form: ChatFormat, use: ToolUse, sampling: SamplingParams, mode: Mode
) -> Request:
    tokenizer = small_tokenizer(kind)
    made = make_request(
        tokenizer.encode(TEXT), 240, mode=mode, sampling=sampling,
        eos_token_ids=tokenizer.eos_token_ids,
    )  # fmt: skip
    answer = form.answer(use, made.prompt_token_ids, hides_special=True)
    constraint = form.constraint(answer, None)
    assert isinstance(constraint, Constraint)
    return replace(made, grammar=tokenizer.grammars.compile(constraint), answer=answer)


def read_outcome(outcome: Outcome, made: Request) -> ReadAnswer:
    runs, completion = outcome
    pieces = [*(run.text for run in runs), completion.text]
    assert made.answer is not None
    return read(made.answer.parser(), pieces)


def check(answer: ReadAnswer, use: ToolUse) -> None:
    for name, arguments in answer.calls:
        assert use.name in ("", name)
        schema = find(name, use.tools).schema
        jsonschema.validate(arguments, schema, cls=jsonschema.Draft202012Validator)


def uses(found: tuple[Tool, ...]) -> Iterator[ToolUse]:
    yield ToolUse(found)
    yield ToolUse(found, Choice.REQUIRED, is_single=True)
    yield ToolUse(found, Choice.REQUIRED, found[-1].name, is_single=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool_format", [form.name for form in FORMS])
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(found=some_tools(), name=st.sampled_from(sorted(SAMPLINGS)))
def test_calls_satisfy_their_schemas(tool_format: str, found: tuple[Tool, ...], name: str) -> None:
    compare(tool_format, found, SAMPLINGS[name])


NUM_BFCL = 32


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_calls_of_the_tools_that_leaderboards_use_satisfy_their_schemas() -> None:
    forms, samplings = itertools.cycle(FORMS), itertools.cycle(sorted(SAMPLINGS))
    tools = bfcl_tools(NUM_BFCL)
    for pair in zip(tools[::2], tools[1::2], strict=True):
        found = {tool.name: tool for tool in pair}  # some have one name
        compare(next(forms).name, tuple(found.values()), SAMPLINGS[next(samplings)])


def compare(tool_format: str, found: tuple[Tool, ...], sampling: SamplingParams) -> None:
    """Calls of the tools, free and required, satisfy their schemas and are the same drafted."""
    kind = "byte_level"
    form = ChatFormat(small_tokenizer(kind), tool_format)
    wanted = list(uses(found))

    def requests(mode: Mode) -> list[Request]:
        return [request(kind, form, use, sampling, mode) for use in wanted]

    asked = requests(Mode.OFF)
    plain = run(kind, asked)
    for made, use, outcome in zip(asked, wanted, plain, strict=True):
        if outcome[1].finish.reason is not FinishReason.STOP:
            continue  # a limit cuts a call short
        answer = read_outcome(outcome, made)
        check(answer, use)
        if use.choice is Choice.REQUIRED:
            assert len(answer.calls) == 1 and not answer.content
    drafts = knowing(kind, [ids_of(runs) for runs, _ in plain])
    drafted = run(kind, requests(Mode.TREE), drafts)
    # Their words are the model's own as far as its rows are bit-equal, which this one's are.
    if model(kind).bitwise:
        assert [ids_of(runs) for runs, _ in drafted] == [ids_of(runs) for runs, _ in plain]
    for made, use, outcome in zip(asked, wanted, drafted, strict=True):
        if outcome[1].finish.reason is FinishReason.STOP:
            check(read_outcome(outcome, made), use)
