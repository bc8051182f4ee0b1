"""Conversations as chat templates take them; where one knows no tools, they are put into words."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from verifier.chat.forms import CallIds
from verifier.chat.tools import Tool

Message = dict[str, Any]

INTRODUCTION = """\
You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{declarations}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that an earlier answer made."""

    call_id: str
    name: str
    arguments: str  # JSON


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str
    calls: tuple[Call, ...] = ()
    call_id: str = ""  # of the call that it answers
    reasoning: str = ""  # what was thought before


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # more variables of the template
    continues_last: bool = False  # the last message is the beginning of the answer

    def for_template(self, *, as_text: bool, call_ids: CallIds = CallIds.AS_GIVEN) -> list[Message]:
        """The messages for a template that knows tools.

        `as_text`: arguments as JSON text, which some templates want, not as an object.
        """
        made: list[Call] = []
        named: dict[str, _Named] = {}  # by the id that came last, since some are used again
        found = []
        for message in self.messages:
            shown = [_id(call, len(made) + i, call_ids) for i, call in enumerate(message.calls)]
            made += message.calls
            for call, call_id in zip(message.calls, shown, strict=True):
                named[call.call_id] = _Named(call.name, call_id)
            found.append(_native(message, shown, named, as_text=as_text))
        return found

    def in_plain_messages(self, *, has_system: bool) -> list[Message]:
        """The messages for a template that knows none: everything is said in words.

        `has_system`: whether the template takes a system message; else the first user's has it.
        """
        if not self.tools and not any(m.calls or m.call_id for m in self.messages):
            return [_native(message, [], {}, as_text=False) for message in self.messages]
        messages = list(_answers_together(_plain(message) for message in self.messages))
        if not self.tools:
            return messages
        declarations = "\n".join(json.dumps(tool.declaration()) for tool in self.tools)
        words = INTRODUCTION.format(declarations=declarations)
        role = "system" if has_system else "user"
        if messages and messages[0]["role"] in ("system", role):
            said = messages[0]["content"]
            words = (
                f"{said}\n\n{words}" if messages[0]["role"] == "system" else f"{words}\n\n{said}"
            )
            messages = messages[1:]
        return [{"role": role, "content": words}, *messages]


@dataclass(frozen=True, slots=True)
class _Named:
    """A call as a template knows it."""

    name: str
    shown_id: str


def _id(call: Call, place: int, kind: CallIds) -> str:
    if kind is CallIds.NUMBERED:
        return f"functions.{call.name}:{place}"
    if kind is CallIds.SHORT:
        return hashlib.sha256(call.call_id.encode()).hexdigest()[:9]
    return call.call_id


def _native(
    message: ChatMessage, shown_ids: Sequence[str], named: dict[str, _Named], *, as_text: bool
) -> Message:
    found: Message = {"role": message.role, "content": message.content}
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.calls:
        found["tool_calls"] = [
            _call(call, call_id, as_text=as_text)
            for call, call_id in zip(message.calls, shown_ids, strict=True)
        ]
    if message.call_id:
        answered = named.get(message.call_id, _Named("", message.call_id))
        found["tool_call_id"], found["name"] = answered.shown_id, answered.name
    return found


def _call(call: Call, call_id: str, *, as_text: bool) -> Message:
    arguments = _canonical(call.arguments) if as_text else _object(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _object(arguments: str) -> Any:
    """The arguments as an object; a text that is none, such as one cut off, as it is."""
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def _canonical(arguments: str) -> str:
    found = _object(arguments)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _plain(message: ChatMessage) -> Message:
    if message.role == "tool":
        text = f"<tool_response>\n{message.content}\n</tool_response>"
        return {"role": "user", "content": text}
    calls = (
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, '
        f'"arguments": {_canonical(call.arguments)}}}\n</tool_call>'
        for call in message.calls
    )
    content = "\n".join(text for text in (message.content, *calls) if text)
    return {"role": message.role, "content": content}


def _answers_together(messages: Iterator[Message]) -> Iterator[Message]:
    """Join the answers to calls that follow each other, since templates want roles to alternate."""
    last: Message | None = None
    for message in messages:
        if last and last["role"] == message["role"] == "user" and _is_answer(last, message):
            last["content"] += "\n" + message["content"]
            continue
        if last:
            yield last
        last = message
    if last:
        yield last


def _is_answer(*messages: Message) -> bool:
    return all(message["content"].startswith("<tool_response>\n") for message in messages)
