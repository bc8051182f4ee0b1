"""How one model is talked to: its prompts, with tools or without, and the form of its answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from verifier.chat.arguments import json_rule, quoted
from verifier.chat.forms import BY_NAME, HERMES, CallForm, recognised
from verifier.chat.grammar import AnswerGrammar
from verifier.chat.parser import AnswerParser
from verifier.chat.prompt import Conversation, Message
from verifier.chat.tools import ToolUse
from verifier.constraints.constraint import Constraint, Kind
from verifier.text.tokenizer import ChatError, Tokenizer

AUTO = "auto"
NAMES = (AUTO, *BY_NAME)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer looks like, and how it is taken apart."""

    calls: CallForm
    use: ToolUse
    shows_special: bool  # whether marks of it are special tokens

    def parser(self) -> AnswerParser:
        """Return a parser for one answer."""
        return AnswerParser(self.calls, self.use)


class ChatFormat:
    """The template of one tokenizer and what it says about calls of tools."""

    def __init__(self, tokenizer: Tokenizer, tool_format: str = AUTO) -> None:
        """`tool_format`: the name of a call form; auto: the one that the template shows."""
        self.tokenizer = tokenizer
        template = tokenizer.chat_template(has_tools=True)
        found = recognised(template) if tool_format == AUTO else BY_NAME[tool_format]
        self.calls = found or HERMES
        # A template that cannot be told how to call is told in words.
        self._is_native = found is not None and "tools" in template
        self._special_ids = tokenizer.special_tokens_in(self.calls.marks)

    def encode(self, conversation: Conversation) -> list[int]:
        """Return the ids of a conversation up to where the answer begins, or raise ChatError."""
        error: ChatError | None = None
        for messages in self._ways(conversation):
            try:
                return self.tokenizer.encode_chat(messages, self._declarations(conversation))
            except ChatError as refusal:
                error = error or refusal
        assert error is not None
        raise error

    def answer(self, use: ToolUse) -> AnswerForm:
        """Return the form of an answer to a request with these tools."""
        return AnswerForm(self.calls, use, shows_special=bool(use.callable and self._special_ids))

    def constraint(self, use: ToolUse, content: Constraint | None) -> Constraint | None:
        """Return what the answer must satisfy: calls their schemas, anything else `content`."""
        if not use.tools:
            return content
        rule = "" if content is None else _rule(content)
        grammar = AnswerGrammar(self.calls, use, self._special_ids, content=rule)
        return Constraint(Kind.ANSWER, (grammar.lark(),))

    def _declarations(self, conversation: Conversation) -> list[Message] | None:
        if not (self._is_native and conversation.tools):
            return None
        return [tool.declaration() for tool in conversation.tools]

    def _ways(self, conversation: Conversation) -> Sequence[list[Message]]:
        """The messages in the ways that templates take them, to be tried in turn."""
        if self._is_native:
            as_objects = conversation.for_template(as_text=False)
            has_calls = any(message.calls for message in conversation.messages)
            return (
                [as_objects, conversation.for_template(as_text=True)] if has_calls else [as_objects]
            )
        with_system = conversation.in_plain_messages(has_system=True)
        if not conversation.tools:
            return [with_system]
        return [with_system, conversation.in_plain_messages(has_system=False)]


def _rule(content: Constraint) -> str:
    """A constraint on a text that is no call, as the right side of a rule."""
    if content.kind is Kind.JSON_SCHEMA:
        return json_rule(json.loads(content.texts[0]))
    if content.kind is Kind.REGEX:
        return f"/{content.texts[0]}/"
    return "/" + "|".join(map(quoted, content.texts)) + "/"
