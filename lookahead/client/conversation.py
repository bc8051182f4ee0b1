"""Turns conversations and tools into contract messages; names the argument that does not fit."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from lookahead.client.assigning import assign
from lookahead.client.errors import invalid_field
from lookahead.client.results import ChatMessage, ToolCall
from protos import verifier_pb2 as pb

NEEDED = {"role", "content"}
MESSAGE_FIELDS = NEEDED | {"tool_calls", "tool_call_id", "reasoning"}
CALL_FIELDS = {"id", "name", "arguments"}
TOOL_FIELDS = {"name", "description", "parameters"}
CHAT_PARAMS = ("tools", "tool_choice", "single_call", "template_options", "continues_last")
CHOICES = ("auto", "none", "required")


def chat_messages(messages: Iterable[ChatMessage]) -> pb.ChatMessages:
    """Return the conversation; each message needs role and content, and may have calls."""
    chat = pb.ChatMessages()
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        if not NEEDED <= set(message) <= MESSAGE_FIELDS:
            raise invalid_field(path, f"needs role and content, got {sorted(message)}")
        added = chat.messages.add()
        for name, value in message.items():
            if name == "tool_calls":
                _add_calls(added, value, path)
            else:
                assign(added, name, value, f"{path}.{name}")
    return chat


def set_chat_param(chat: pb.ChatMessages, name: str, value: Any) -> None:
    """Set what the answer may do."""
    if name == "tools":
        for i, tool in enumerate(value):
            # In OpenAI's form the function is inside.
            function = tool.get("function", tool)
            _add(chat.tools.add(), function, TOOL_FIELDS, f"tools[{i}]")
    elif name == "tool_choice":
        # Anything else is a tool's name.
        choice = value if value in CHOICES else "required"
        chat.tool_choice = pb.ChatMessages.ToolChoice.Value(f"TOOL_CHOICE_{choice.upper()}")
        if value not in CHOICES:
            assign(chat, "tool_name", value, name)
    else:
        assign(chat, name, _as_json(value), name)


def _add_calls(message: pb.ChatMessage, calls: Iterable[Any], path: str) -> None:
    for i, call in enumerate(calls):
        found = asdict(call) if isinstance(call, ToolCall) else call
        _add(message.tool_calls.add(), found, CALL_FIELDS, f"{path}.tool_calls[{i}]")


def _add(added: Any, found: Mapping[str, Any], known: set[str], path: str) -> None:
    if not {"name"} <= set(found) <= known:
        raise invalid_field(path, f"may have {', '.join(sorted(known))}, got {sorted(found)}")
    for name, value in found.items():
        assign(added, name, _as_json(value), f"{path}.{name}")


def _as_json(value: object) -> object:
    """Objects go as JSON text: schemas, arguments, options."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
