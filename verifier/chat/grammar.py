"""The grammar of an answer that may call tools: free text until a call begins, then a call's form.

Written in llguidance's variant of Lark. A lexeme marked lazy ends as soon as it can, and then
nothing else goes on with that text: so a text in which a call has begun is a call, or nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from verifier.chat.arguments import argument_rules, quoted
from verifier.chat.forms import CallForm
from verifier.chat.reasoning import Reasoning
from verifier.chat.tools import Choice, ToolUse

ANY = r"/(.|\n)+/"


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """What an answer may be. `body` is the rule for all of it."""

    form: CallForm
    use: ToolUse
    special_ids: Mapping[str, int]  # the special tokens of the vocabulary by their text
    content: str = ""  # what a text that is no call must be, a rule's right side; empty: anything
    reasoning: Reasoning | None = None
    has_begun_reasoning: bool = False  # the prompt ends inside of it

    def lark(self) -> str:
        """Return the rules."""
        rules = [f"ANY: {ANY}", r"SPACE: /\s+/"]
        return "\n".join([*rules, *self._body(), *self._answer(), *self._calls()])

    def _body(self) -> Iterator[str]:
        """What is thought, then the answer."""
        thought = self.reasoning
        if thought is None:
            yield "body: answer"
            return
        unclosed = "" if self._must_call else " | ANY?"
        if self.has_begun_reasoning:
            yield f"body: thought answer{unclosed}"
        else:
            start = self._spell(thought.open)
            unclosed = "" if self._must_call else f" | {start} ANY?"
            yield f"body: answer | {start} thought answer{unclosed}"
        yield from self._until("thought", thought.close)

    def _answer(self) -> Iterator[str]:
        yield f"answer: {' | '.join(self._kinds())}"
        if self.content:
            space = "SPACE? " if self.reasoning else ""
            yield f"content: {self._spell(self.form.content_open)} {space}constrained"
            yield f"constrained: {self.content}"
        elif not self._must_call:
            yield f"content: {self._spell(self.form.content_open)} TEXT?"
            yield f"TEXT: {self._text()}"

    def _kinds(self) -> Iterator[str]:
        if not self._must_call:
            yield "content"
        if not self.use.callable:
            return
        if self._must_call or self.content or self.form.content_open:
            # After a thought a line break or two come before a call.
            space = "SPACE? " if self.reasoning else ""
            yield f"{space}{self._spell(self.form.trigger)} calls"
        elif not self.form.trigger:
            yield "SPACE? calls"
        else:
            yield "begun calls"

    def _text(self) -> str:
        """What a text may be that is no call, nor begins as a thought does."""
        trigger = self.form.trigger
        if not trigger:
            first = re.escape((self.form.opening + self.form.head)[:1])
            found = rf"/\s*[^{first}\s](.|\n)*/"
        elif self._first_special(trigger) is not None or self.use.callable:
            found = ANY  # where the text has come to be a trigger, the lazy lexeme has it
        else:
            found = rf"{ANY} & ~/(.|\n)*{quoted(trigger)}(.|\n)*/"
        return found + self._no_thought()

    def _no_thought(self) -> str:
        thought = self.reasoning
        if thought is None or self.has_begun_reasoning or self._first_special(thought.open):
            return ""
        return rf" & ~/\s*{quoted(thought.open)}(.|\n)*/"

    def _calls(self) -> Iterator[str]:
        """The calls, after their trigger."""
        form, tools = self.form, self.use.callable
        if not tools:
            return
        if not (self._must_call or self.content or form.content_open) and form.trigger:
            yield from self._until("begun", form.trigger, but=self._no_thought())
        more = "" if form.between is None or self.use.is_single else f"({self._between()} call)*"
        yield f"calls: {self._spell(form.opening)} call {more} {self._spell(form.end)}"
        if form.has_numbers:
            yield "NUMBER: /[0-9]{1,3}/"
        yield f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"
        for i, tool in enumerate(tools):
            start = self._start(tool.name)
            yield f"call_{i}: {start} arguments_{i} {self._spell(form.tail)}"
            yield from argument_rules(f"arguments_{i}", tool, form.members, self._spell)

    def _start(self, name: str) -> str:
        form = self.form
        if not form.has_numbers:
            return self._spell(f"{form.head}{name}{form.middle}")
        return f"{self._spell(f'{form.head}{name}:')} NUMBER {self._spell(form.middle)}"

    def _between(self) -> str:
        assert self.form.between is not None
        return self._spell(self.form.between)

    def _until(self, rule: str, mark: str, *, but: str = "") -> Iterator[str]:
        """The rule of a text up to the first `mark`, and the mark."""
        if self._first_special(mark) is not None:
            yield f"{rule}: ANY? {self._spell(mark)}"
        else:
            yield f"{rule}[lazy]: {rule.upper()}"
            yield rf"{rule.upper()}: /(.|\n)*{quoted(mark)}/{but}"

    @property
    def _must_call(self) -> bool:
        return self.use.choice is Choice.REQUIRED

    def _spell(self, text: str) -> str:
        """A text that the output must have, special tokens as such."""
        pieces = re.split(f"({self._special_pattern()})", text) if self.special_ids else [text]
        return " ".join(
            f"<[{self.special_ids[piece]}]>"
            if piece in self.special_ids
            else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        )

    def _first_special(self, mark: str) -> int | None:
        """The special token that a mark begins with."""
        match = re.match(self._special_pattern(), mark) if self.special_ids else None
        return None if match is None else self.special_ids[match[0]]

    def _special_pattern(self) -> str:
        longest_first = sorted(self.special_ids, key=len, reverse=True)
        return "|".join(map(re.escape, longest_first))
