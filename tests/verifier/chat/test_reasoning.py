"""What a model thinks is told apart from what it says, and binds neither calls nor forms."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.models.written_calls import read, written
from tests.verifier.chat.test_forms import PING, TOKENIZER, TOOLS, byte_ids, pieces_of
from verifier.chat.format import ChatFormat
from verifier.chat.forms import BY_NAME
from verifier.chat.grammar import AnswerGrammar
from verifier.chat.parser import AnswerParser
from verifier.chat.prompt import ChatMessage, Conversation
from verifier.chat.reasoning import KNOWN, Reasoning, recognised
from verifier.chat.tools import Choice, ToolUse
from verifier.constraints.constraint import Constraint, Kind

THINK = KNOWN[0]
HERMES = BY_NAME["hermes"]
TURN = "<|turn|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
TEMPLATE = (
    "{% for m in messages %}" + TURN + "{% endif %}{{ m.content }}</s>{% endfor %}"
    "<|turn|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
)
ALL = pytest.mark.parametrize(
    ("reasoning", "form"),
    [
        (reasoning, BY_NAME[name])
        for reasoning, name in zip(KNOWN, ("hermes", "harmony", "gemma", "mistral"), strict=True)
    ],
    ids=lambda found: found.name,
)
texts = st.text("ab <>{}\n", max_size=12)


def follows(grammar: AnswerGrammar, text: str) -> bool:
    """Whether an answer is right."""
    constraint = Constraint(Kind.ANSWER, (grammar.lark(),))
    matcher = TOKENIZER.grammars.compile(constraint).start()._matcher
    ids = [byte_ids()[byte] for byte in text.encode()]
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@ALL
@settings(max_examples=20)
@given(thought=texts, said=texts, seed=st.integers(0, 99))
def test_a_thought_is_told_from_what_is_said(
    reasoning: Reasoning, form: object, thought: str, said: str, seed: int
) -> None:
    form = BY_NAME[form.name]  # type: ignore[attr-defined]
    use = ToolUse(TOOLS)
    for has_begun in (False, True):
        begin = "" if has_begun else reasoning.open
        answer = f"{begin}{thought}{reasoning.close}\n\n{form.content_open}{said}"
        parser = AnswerParser(form, use, reasoning=reasoning, has_begun_reasoning=has_begun)
        found = read(parser, pieces_of(answer, random.Random(seed)))
        assert found.reasoning == thought.strip()
        assert found.content == (said if form.content_open else said.lstrip())
        assert not found.calls


@ALL
def test_a_call_may_follow_a_thought(reasoning: Reasoning, form: object) -> None:
    form = BY_NAME[form.name]  # type: ignore[attr-defined]
    call = written(form, [("ping", {})])
    # A thought may speak of calls.
    thought = (
        f"{reasoning.open}I could {call if form.name == 'hermes' else 'call'}{reasoning.close}"
    )
    for choice in (Choice.AUTO, Choice.REQUIRED):
        use = ToolUse((PING,), choice)
        grammar = AnswerGrammar(form, use, {}, reasoning=reasoning)
        for answer in (f"{thought}\n\n{call}", call):
            assert follows(grammar, answer), answer
            found = read(AnswerParser(form, use, reasoning=reasoning), [answer])
            assert found.names == ["ping"]
        ends_thinking = follows(grammar, thought.removesuffix(reasoning.close))
        assert ends_thinking is (choice is Choice.AUTO)
        begun = AnswerGrammar(form, use, {}, reasoning=reasoning, has_begun_reasoning=True)
        assert follows(begun, f"{thought.removeprefix(reasoning.open)}{call}")


def test_a_form_binds_what_is_said_alone() -> None:
    content = '%json {"type": "integer"}'
    grammar = AnswerGrammar(HERMES, ToolUse(), {}, content=content, reasoning=THINK)
    assert follows(grammar, "<think>one or two</think>\n\n2")
    assert follows(grammar, "2")
    assert not follows(grammar, "<think>one or two</think>\n\ntwo")
    assert not follows(grammar, "two")


def test_a_thought_that_is_cut_off_is_a_thought() -> None:
    parser = AnswerParser(HERMES, ToolUse(), reasoning=THINK)
    found = read(parser, ["<thi", "nk>so", " far </th"])
    assert (found.reasoning, found.content) == ("so far </th", "")
    assert read(AnswerParser(HERMES, ToolUse(), reasoning=THINK), [" <thi"]).content == " <thi"


def test_the_prompt_tells_whether_the_thought_has_begun() -> None:
    chat = ChatFormat(small_tokenizer("byte_level", chat_template=TEMPLATE))
    asked = (ChatMessage("user", "hi"),)
    for options, has_begun in (({}, True), ({"enable_thinking": False}, False)):
        prompt = chat.encode(Conversation(asked, options=options))
        answer = chat.answer(ToolUse(), prompt, hides_special=True)
        assert answer.has_begun_reasoning is has_begun
    answered = ChatMessage("assistant", "yes", reasoning="hm")
    ids = chat.encode(Conversation((*asked, answered)))
    assert "<think>hm</think>yes" in chat.tokenizer.decode(ids, special_tokens=True)


def test_special_tokens_that_are_no_marks_stay_hidden() -> None:
    chat = ChatFormat(small_tokenizer("byte_level"), "hermes", "think")
    parser = AnswerParser(HERMES, ToolUse(), hidden=chat._hidden)
    assert read(parser, ["a", "<|turn|>", "b</s>"]).content == "ab"


def test_marks_are_recognised_in_templates() -> None:
    for reasoning in KNOWN:
        assert recognised(f"x{reasoning.open}y") is reasoning
    assert recognised("{{ messages }}") is None
