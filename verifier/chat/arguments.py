"""The arguments of a call as rules of a grammar: what a tool's schema allows, in a call form."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from verifier.chat.forms import Members
from verifier.chat.tools import Tool

# As chat templates write JSON again in the next turn, so that its rows can be reused; with that,
# most of a call is certain before the model is asked.
CANONICAL: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
ANNOTATIONS = {"type", "title", "description", "default", "examples", "enum"}
SHARED = ("$defs", "definitions")  # what the parts of a schema may refer to

Spell = Callable[[str], str]  # a text of the output as it stands in a grammar


def is_plain_text(schema: object) -> bool:
    """Whether any text is right, or one of some texts."""
    return (
        isinstance(schema, dict)
        and schema.get("type") == "string"
        and set(schema) <= ANNOTATIONS
        and all(isinstance(text, str) for text in schema.get("enum", ()))
    )


def argument_rules(rule: str, tool: Tool, members: Members | None, spell: Spell) -> Iterator[str]:
    """Yield the rules that `rule` is made of."""
    if members is None:
        yield f"{rule}: {json_rule(tool.schema)}"
    else:
        yield from _MemberRules(rule, tool.schema, members, spell).lines()


def json_rule(schema: Any) -> str:
    """Return JSON that satisfies a schema, as the right side of a rule."""
    if isinstance(schema, dict):
        schema = {"x-guidance": CANONICAL} | schema
    return f"%json {json.dumps(schema)}"


def quoted(text: str) -> str:
    """Return a text as a part of a regular expression between slashes."""
    odd = {"/": r"\/", "\n": r"\n"}
    return "".join(odd.get(char) or re.escape(char) for char in text)


class _MemberRules:
    """Members in the order of the schema; those that are not required may be left out.

    `rule_N` is what may come from member N on if none came before it, `rule_N_more` if one did.
    """

    def __init__(self, rule: str, schema: dict[str, Any], members: Members, spell: Spell) -> None:
        self._rule = rule
        self._members = members
        self._spell = spell
        self._shared = {name: schema[name] for name in SHARED if name in schema}
        self._properties: list[tuple[str, Any]] = list(schema.get("properties", {}).items())
        self._required = set(schema.get("required", ()))

    def lines(self) -> Iterator[str]:
        """Yield the rules."""
        spell, members, rule = self._spell, self._members, self._rule
        yield f"{rule}: {spell(members.open)} {rule}_0 {spell(members.close)}"
        count = len(self._properties)
        for i, (key, schema) in enumerate(self._properties):
            then, between = f"{rule}_{i + 1}_more", spell(members.between)
            may_miss = key not in self._required
            skip, skip_more = (f" | {rule}_{i + 1}", f" | {then}") if may_miss else ("", "")
            yield f"{rule}_{i}: {rule}_member_{i} {then}{skip}"
            yield f"{rule}_{i}_more: {between} {rule}_member_{i} {then}{skip_more}"
            yield from self._member(f"{rule}_member_{i}", key, schema)
        yield f'{rule}_{count}: ""'
        yield f'{rule}_{count}_more: ""'

    def _member(self, rule: str, key: str, schema: Any) -> Iterator[str]:
        members, spell = self._members, self._spell
        start = spell(f"{members.key_open}{key}{members.key_close}")
        end, mark = spell(members.value_close), spell(members.text_mark)
        if not (members.has_texts and is_plain_text(schema)):
            yield f"{rule}: {start} {rule}_value {end}"
            yield f"{rule}_value: {self._value(schema)}"
        elif "enum" in schema:
            texts = " | ".join(spell(text) or '""' for text in schema["enum"])
            yield f"{rule}: {start} {mark} ({texts}) {mark} {end}"
        else:
            yield f"{rule}: {start} {mark} {rule}_text"
            yield from self._text(f"{rule}_text", members.text_mark + members.value_close)

    def _text(self, rule: str, close: str) -> Iterator[str]:
        """Any text and what closes it."""
        spelled = self._spell(close)
        if spelled.startswith("<["):  # a special token, which no text can hold
            yield f"{rule}: ANY? {spelled}"
        else:
            yield f"{rule}[lazy]: /(.|\\n)*{quoted(close)}/"

    def _value(self, schema: Any) -> str:
        if not isinstance(schema, dict):
            return json_rule(schema)
        words = {json: word for word, json in self._members.words}
        if words and schema.get("type") == "boolean" and set(schema) <= ANNOTATIONS - {"enum"}:
            return f'"{words["true"]}" | "{words["false"]}"'
        return json_rule(schema | self._shared)
