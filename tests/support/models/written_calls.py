"""Writes calls of tools in the form of each family, in the plainest way, and reads them back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from verifier.chat.forms import CallForm, Members
from verifier.chat.parser import AnswerParser
from verifier.chat.parts import Kind, Part
from verifier.chat.tools import Tool

Call = tuple[str, dict[str, Any]]


def written(form: CallForm, calls: Sequence[Call], content: str = "") -> str:
    """Return an answer that says something and makes calls."""
    numbers = [f":{i}" if form.has_numbers else "" for i in range(len(calls))]
    bodies = [
        f"{form.head}{name}{number}{form.middle}{_arguments(form, arguments)}{form.tail}"
        for (name, arguments), number in zip(calls, numbers, strict=True)
    ]
    return content + form.trigger + form.opening + (form.between or "").join(bodies) + form.end


def _arguments(form: CallForm, arguments: dict[str, Any]) -> str:
    members = form.members
    if members is None:
        return json.dumps(arguments, ensure_ascii=False)
    inner = members.between.join(
        f"{members.key_open}{key}{members.key_close}{_value(value, members)}{members.value_close}"
        for key, value in arguments.items()
    )
    return f"{members.open}{inner}{members.close}"


def _value(value: Any, members: Members) -> str:
    if isinstance(value, str) and members.has_texts:
        return f"{members.text_mark}{value}{members.text_mark}"
    text = json.dumps(value, ensure_ascii=False)
    return {word_in_json: word for word, word_in_json in members.words}.get(text, text)


@dataclass
class ReadAnswer:
    """What the parts of an answer add up to."""

    content: str = ""
    reasoning: str = ""
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        """The calls, their arguments read."""
        pairs = zip(self.names, self.arguments, strict=True)
        return [(name, json.loads(arguments)) for name, arguments in pairs]

    def add(self, part: Part) -> None:
        """Take one more piece."""
        if part.kind is Kind.CONTENT:
            self.content += part.text
        elif part.kind is Kind.REASONING:
            self.reasoning += part.text
        else:
            if part.tool_name:
                assert part.call_index == len(self.names)
                self.names.append(part.tool_name)
                self.arguments.append("")
            assert part.call_index == len(self.names) - 1
            self.arguments[part.call_index] += part.text


def read(parser: AnswerParser, pieces: Sequence[str]) -> ReadAnswer:
    """Return what a parser makes of an answer that comes in pieces."""
    found = ReadAnswer()
    for piece in pieces:
        for part in parser.push(piece):
            found.add(part)
    for part in parser.finish():
        found.add(part)
    return found


def find(name: str, tools: Sequence[Tool]) -> Tool:
    """The tool of that name."""
    return next(tool for tool in tools if tool.name == name)
