"""Reads the arguments of a call out of a text that still grows, as JSON text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from verifier.chat.arguments import is_plain_text
from verifier.chat.forms import Members
from verifier.chat.tools import Tool
from verifier.text.stopping import longest_possible_stop


@dataclass(frozen=True, slots=True)
class Reading:
    """What a look at the text brought."""

    text: str  # JSON that became certain
    num_read: int  # characters that need not be looked at again
    is_done: bool = False


class JsonReader:
    """One JSON value; a number or a word ends before the first character that cannot be in it."""

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        self._words = words or {}  # that stand for words of JSON
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._is_scalar = False

    def read(self, text: str) -> Reading:
        """Read on from the beginning of `text`."""
        if self._is_scalar or (self._depth == 0 and not self._in_string and _is_bare(text)):
            self._is_scalar = True
            return self._read_scalar(text)
        for i, char in enumerate(text):
            self._step(char)
            if self._depth == 0 and not self._in_string:
                return Reading(text[: i + 1], i + 1, is_done=True)
        return Reading(text, len(text))

    def _read_scalar(self, text: str) -> Reading:
        end = next((i for i, char in enumerate(text) if not _is_bare(char)), None)
        if end is None:
            return Reading("", 0)  # it may go on
        return Reading(self._words.get(text[:end], text[:end]), end, is_done=True)

    def _step(self, char: str) -> None:
        if self._in_string:
            self._in_string = char != '"' or self._is_escaped
            self._is_escaped = char == "\\" and not self._is_escaped
        elif char == '"':
            self._in_string = True
        else:
            self._depth += (char in "{[") - (char in "}]")


def _is_bare(text: str) -> bool:
    """Whether a number or a word begins, or goes on, here."""
    return text[:1].isalnum() or text[:1] in ("-", "+", ".")


class MembersReader:
    """Keys and values one after the other, made one JSON object."""

    def __init__(self, members: Members, tool: Tool, tail: str) -> None:
        schemas = tool.schema.get("properties", {})
        has_texts = members.has_texts
        self._texts = {key for key, s in schemas.items() if has_texts and is_plain_text(s)}
        self._members = members
        self._end = members.close + tail
        self._state = self._open
        self._value: JsonReader | None = None
        self._count = 0

    def read(self, text: str) -> Reading:
        """Read on from the beginning of `text`."""
        found, num_read = "", 0
        while True:
            reading = self._state(text[num_read:])
            found, num_read = found + reading.text, num_read + reading.num_read
            if reading.is_done or not reading.num_read:
                return Reading(found, num_read, is_done=reading.is_done)

    def _open(self, text: str) -> Reading:
        opening = self._members.open
        if not text.startswith(opening) or not text:
            return Reading("", 0)
        self._state = self._member
        # An opening of no length still is a step.
        following = self._member(text[len(opening) :])
        return Reading(
            "{" + following.text, len(opening) + following.num_read, is_done=following.is_done
        )

    def _member(self, text: str) -> Reading:
        """The next key, or the end."""
        if text.startswith(self._end):
            return Reading("}", len(self._members.close), is_done=True)
        if self._end.startswith(text):
            return Reading("", 0)
        start = (self._members.between if self._count else "") + self._members.key_open
        end = text.find(self._members.key_close, len(start))
        if end < 0:
            return Reading("", 0)
        key = text[len(start) : end]
        is_text = key in self._texts
        self._state = self._text_begins if is_text else self._json
        self._value = None if is_text else JsonReader(dict(self._members.words))
        comma = ", " if self._count else ""
        self._count += 1
        return Reading(f"{comma}{json.dumps(key)}: ", end + len(self._members.key_close))

    def _text_begins(self, text: str) -> Reading:
        mark = self._members.text_mark
        if not text or (mark and not text.startswith(mark)):
            return Reading("", 0)
        self._state = self._text
        following = self._text(text[len(mark) :])
        return Reading('"' + following.text, len(mark) + following.num_read)

    def _text(self, text: str) -> Reading:
        close = self._members.text_mark + self._members.value_close
        end = text.find(close)
        if end >= 0:
            self._state = self._member
            return Reading(_escaped(text[:end]) + '"', end + len(close))
        certain = len(text) - longest_possible_stop(text, (close,))
        return Reading(_escaped(text[:certain]), certain)

    def _json(self, text: str) -> Reading:
        assert self._value is not None
        reading = self._value.read(text) if text else Reading("", 0)
        if reading.is_done:
            self._state = self._value_close
        return Reading(reading.text, reading.num_read)

    def _value_close(self, text: str) -> Reading:
        close = self._members.value_close
        if not text.startswith(close):
            return Reading("", 0)
        self._state = self._member
        following = self._member(text[len(close) :])
        return Reading(following.text, len(close) + following.num_read, is_done=following.is_done)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
