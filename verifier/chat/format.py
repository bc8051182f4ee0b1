"""How one model is talked to: its prompts, with tools or without, and the form of its answers."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from verifier.chat import reasoning
from verifier.chat.arguments import json_rule, quoted
from verifier.chat.forms import BY_NAME, HERMES, CallForm, recognised
from verifier.chat.grammar import AnswerGrammar
from verifier.chat.parser import AnswerParser
from verifier.chat.prompt import Conversation, Message
from verifier.chat.reasoning import Reasoning
from verifier.chat.tools import ToolUse
from verifier.constraints.constraint import Constraint, Kind
from verifier.constraints.grammar import nested
from verifier.text.tokenizer import ChatError, Tokenizer

AUTO = "auto"
MAX_MARK_TOKENS = 32  # that the mark which begins a thought may have


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer looks like, and how it is taken apart."""

    calls: CallForm
    use: ToolUse
    reasoning: Reasoning | None
    has_begun_reasoning: bool
    hidden: re.Pattern[str] | None  # special tokens that the engine shows but nobody wants to see

    def parser(self) -> AnswerParser:
        """Return a parser for one answer."""
        return AnswerParser(
            self.calls,
            self.use,
            reasoning=self.reasoning,
            has_begun_reasoning=self.has_begun_reasoning,
            hidden=self.hidden,
        )


class ChatFormat:
    """The template of one tokenizer and what it says about calls of tools."""

    def __init__(
        self, tokenizer: Tokenizer, tool_format: str = AUTO, reasoning_format: str = AUTO
    ) -> None:
        """The formats: names of forms, or auto for those that the template shows."""
        self.tokenizer = tokenizer
        template = tokenizer.chat_template(has_tools=True)
        found = recognised(template) if tool_format == AUTO else BY_NAME[tool_format]
        self.calls = found or HERMES
        # A template that cannot be told how to call is told in words.
        self._is_native = found is not None and "tools" in template
        self.reasoning = (
            reasoning.recognised(template)
            if reasoning_format == AUTO
            else reasoning.BY_NAME.get(reasoning_format)
        )
        marks = self.calls.marks
        if self.reasoning is not None:
            marks += (self.reasoning.open, self.reasoning.close)
        self._special_ids = tokenizer.special_tokens_in(marks)
        self._hidden = _hidden(set(tokenizer.special_tokens) - set(self._special_ids))

    def encode(self, conversation: Conversation) -> list[int]:
        """Return the ids of a conversation up to where the answer begins, or raise ChatError."""
        error: ChatError | None = None
        for messages in self._ways(conversation):
            try:
                return self.tokenizer.encode_chat(
                    messages,
                    self._declarations(conversation),
                    conversation.options,
                    continues_last=conversation.continues_last,
                )
            except ChatError as refusal:
                error = error or refusal
        assert error is not None
        raise error

    @property
    def shows_special(self) -> bool:
        """Whether marks of the answers' parts are special tokens."""
        return bool(self._special_ids)

    def answer(self, use: ToolUse, prompt: Sequence[int], *, hides_special: bool) -> AnswerForm:
        """Return the form of an answer to a request with these tools."""
        return AnswerForm(
            self.calls,
            use,
            self.reasoning,
            has_begun_reasoning=self._has_begun_reasoning(prompt),
            hidden=self._hidden if self.shows_special and hides_special else None,
        )

    def constraint(self, form: AnswerForm, content: Constraint | None) -> Constraint | None:
        """Return what the answer must satisfy: calls their schemas, anything else `content`."""
        if not form.use.tools and (content is None or self.reasoning is None):
            return content
        grammar = AnswerGrammar(
            self.calls,
            form.use,
            self._special_ids,
            content="" if content is None else _rule(content),
            reasoning=form.reasoning,
            has_begun_reasoning=form.has_begun_reasoning,
        )
        return Constraint(Kind.ANSWER, (grammar.lark(),))

    def _has_begun_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether the template has written the mark that begins a thought."""
        if self.reasoning is None:
            return False
        end = self.tokenizer.decode(list(prompt[-MAX_MARK_TOKENS:]), special_tokens=True)
        return end.rstrip().endswith(self.reasoning.open.rstrip())

    def _declarations(self, conversation: Conversation) -> list[Message] | None:
        if not (self._is_native and conversation.tools):
            return None
        return [tool.declaration() for tool in conversation.tools]

    def _ways(self, conversation: Conversation) -> Sequence[list[Message]]:
        """The messages in the ways that templates take them, to be tried in turn."""
        if self._is_native:
            ids = self.calls.call_ids
            as_objects = conversation.for_template(as_text=False, call_ids=ids)
            has_calls = any(message.calls for message in conversation.messages)
            if not has_calls:
                return [as_objects]
            return [as_objects, conversation.for_template(as_text=True, call_ids=ids)]
        with_system = conversation.in_plain_messages(has_system=True)
        if not conversation.tools:
            return [with_system]
        return [with_system, conversation.in_plain_messages(has_system=False)]


def _hidden(tokens: set[str]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None


def _rule(content: Constraint) -> str:
    """A constraint on a text that is no call, as the right side of a rule."""
    if content.kind is Kind.JSON_SCHEMA:
        return json_rule(json.loads(content.texts[0]))
    if content.kind is Kind.GRAMMAR:
        return nested(content.texts[0])
    if content.kind is Kind.REGEX:
        return f"/{content.texts[0]}/"
    return "/" + "|".join(map(quoted, content.texts)) + "/"
