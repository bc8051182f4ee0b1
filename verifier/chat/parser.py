"""Takes an answer apart while it is written: what is thought, what is said, which tools it calls.

A text that the grammar of the answer allows is taken apart exactly. What is cut off in the middle
of a call, by a limit or a stop string, is a call with the arguments so far.
"""

import re
from collections.abc import Callable

from verifier.chat.forms import CallForm
from verifier.chat.parts import Kind, Part, merged
from verifier.chat.reasoning import Reasoning
from verifier.chat.tools import Tool, ToolUse
from verifier.chat.values import JsonReader, MembersReader
from verifier.text.stopping import longest_possible_stop

NO_TEXT = "\x00"  # stands for marks that there are none of


class AnswerParser:
    """Follows one answer."""

    def __init__(
        self,
        form: CallForm,
        use: ToolUse,
        *,
        reasoning: Reasoning | None = None,
        has_begun_reasoning: bool = False,
        hidden: re.Pattern[str] | None = None,
    ) -> None:
        """`hidden`: special tokens that are neither marks nor meant to be seen."""
        self._form = form
        self._tools = {tool.name: tool for tool in use.callable}
        self._reasoning = reasoning
        self._hidden = hidden
        self._buffer = ""
        self._parts: list[Part] = []
        self._num_calls = 0
        self._reader: JsonReader | MembersReader = JsonReader()
        # Each reads something off the buffer's beginning, and says whether there is more to do.
        self._state: Callable[[], bool] = self._start
        self._kind = Kind.CONTENT
        self._is_blank = (
            False  # nothing but space so far beside a thought, whose mark it belongs to
        )
        if has_begun_reasoning:
            self._begin_reasoning()

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought, not said."""
        return self._state == self._text and self._kind is Kind.REASONING

    def push(self, text: str) -> tuple[Part, ...]:
        """Take more text; return what became certain."""
        # A special token's text comes whole, since it is one token's.
        self._buffer += text if self._hidden is None else self._hidden.sub("", text)
        while self._buffer and self._state():
            pass
        return self._take()

    def finish(self) -> tuple[Part, ...]:
        """Return the rest, at the end of the answer."""
        if self._state in (self._start, self._text):
            kind = self._kind if self._state == self._text else Kind.CONTENT
            rest = self._buffer.lstrip() if self._is_blank else self._buffer
            self._parts.append(Part(kind, rest))
        self._buffer = ""
        return self._take()

    def _take(self) -> tuple[Part, ...]:
        parts, self._parts = self._parts, []
        return merged(parts)

    def _start(self) -> bool:
        """What the answer begins with decides what it is."""
        text = self._buffer.lstrip() if self._reasoning or not self._form.trigger else self._buffer
        for mark, begin in self._beginnings():
            if text.startswith(mark):
                self._buffer, self._is_blank = text[len(mark) :], False
                begin()
                return True
        if any(mark.startswith(text) for mark, _ in self._beginnings()):
            return False
        self._begin_content()
        return True

    def _beginnings(self) -> list[tuple[str, Callable[[], None]]]:
        """The marks that an answer may begin with."""
        form, found = self._form, list[tuple[str, Callable[[], None]]]()
        if self._reasoning is not None and self._kind is not Kind.REASONING:
            found.append((self._reasoning.open, self._begin_reasoning))
        if form.content_open:
            found.append((form.content_open, self._begin_content))
        if self._tools and not form.trigger:
            mark = form.opening + form.head
            found.append((mark, self._begin_call))
        elif self._tools and form.content_open:
            found.append((form.trigger + form.opening + form.head, self._begin_call))
        return found

    def _begin_reasoning(self) -> None:
        self._kind, self._is_blank, self._state = Kind.REASONING, True, self._text

    def _begin_content(self) -> None:
        self._kind, self._state = Kind.CONTENT, self._text

    def _begin_call(self) -> None:
        self._state = self._name

    def _text(self) -> bool:
        """What is thought or said, up to the mark that ends it."""
        is_thought = self._kind is Kind.REASONING
        mark = self._thought_end() if is_thought else self._call_start()
        if self._is_blank:
            self._buffer = self._buffer.lstrip()
            self._is_blank = not self._buffer
        end = self._buffer.find(mark)
        if end >= 0:
            self._parts.append(Part(self._kind, self._buffer[:end].rstrip()))
            self._buffer = self._buffer[end + len(mark) :]
            self._state = self._after_thought if is_thought else self._opening
            return True
        certain = len(self._buffer) - longest_possible_stop(self._buffer, (mark,))
        if mark != NO_TEXT:
            # Space before a mark belongs to the mark.
            certain = len(self._buffer[:certain].rstrip())
        self._parts.append(Part(self._kind, self._buffer[:certain]))
        self._buffer = self._buffer[certain:]
        return False

    def _thought_end(self) -> str:
        assert self._reasoning is not None
        return self._reasoning.close

    def _call_start(self) -> str:
        return self._form.trigger if self._tools and self._form.trigger else NO_TEXT

    def _after_thought(self) -> bool:
        self._is_blank = True
        self._state = self._start
        return True

    def _opening(self) -> bool:
        return self._skip(self._form.opening + self._form.head, self._name)

    def _skip(self, mark: str, then: Callable[[], bool]) -> bool:
        """Pass a mark, once all of it is there."""
        if len(self._buffer) < len(mark):
            return False
        self._buffer = self._buffer[len(mark) :]
        self._state = then
        return True

    def _name(self) -> bool:
        form = self._form
        # Without a mark behind it, a name ends where the arguments begin.
        middle = form.middle or (form.members.open if form.members else "{")
        end = self._buffer.find(middle)
        if end < 0:
            return False
        name = self._buffer[:end]
        if form.has_numbers:
            name = name.rpartition(":")[0] or name
        self._buffer = self._buffer[end + len(form.middle) :]
        self._parts.append(Part(Kind.CALL, "", self._num_calls, name))
        tool = self._tools.get(name, Tool(name))
        members = form.members
        self._reader = MembersReader(members, tool, form.tail) if members else JsonReader()
        self._state = self._arguments
        return True

    def _arguments(self) -> bool:
        reading = self._reader.read(self._buffer)
        self._buffer = self._buffer[reading.num_read :]
        self._parts.append(Part(Kind.CALL, reading.text, self._num_calls))
        if reading.is_done:
            self._num_calls += 1
            self._state = self._tail
        return reading.is_done

    def _tail(self) -> bool:
        return self._skip(self._form.tail, self._next_call)

    def _next_call(self) -> bool:
        between, end = self._form.between, self._form.end
        if between is None or (end and self._buffer.startswith(end)):
            self._buffer = ""  # nothing follows
            return False
        if end.startswith(self._buffer):
            return False
        return self._skip(between + self._form.head, self._name)
