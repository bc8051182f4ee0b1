"""Conversations as chat templates take them; where one knows no tools, they are put into words."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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

    def for_template(self, *, as_text: bool) -> list[Message]:
        """The messages for a template that knows tools.

        `as_text`: arguments as JSON text, which some templates want, not as an object.
        """
        names = {call.call_id: call.name for m in self.messages for call in m.calls}
        return [_native(message, names, as_text=as_text) for message in self.messages]

    def in_plain_messages(self, *, has_system: bool) -> list[Message]:
        """The messages for a template that knows none: everything is said in words.

        `has_system`: whether the template takes a system message; else the first user's has it.
        """
        if not self.tools and not any(m.calls or m.call_id for m in self.messages):
            return [_native(message, {}, as_text=False) for message in self.messages]
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


def _native(message: ChatMessage, names: dict[str, str], *, as_text: bool) -> Message:
    found: Message = {"role": message.role, "content": message.content}
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.calls:
        found["tool_calls"] = [_call(call, as_text=as_text) for call in message.calls]
    if message.call_id:
        found["tool_call_id"] = message.call_id
        found["name"] = names.get(message.call_id, "")
    return found


def _call(call: Call, *, as_text: bool) -> Message:
    arguments = _canonical(call.arguments) if as_text else _object(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.call_id, "type": "function", "function": function}


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
