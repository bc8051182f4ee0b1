"""Conversations from the wire: messages, tools, and what the answer may do with them."""

import json
import re

from protos import verifier_pb2 as pb
from verifier.api.constraint import check_schema
from verifier.api.validation import Limits, Violations, check_len
from verifier.chat.prompt import Call, ChatMessage, Conversation
from verifier.chat.tools import Choice, Tool, ToolUse

MAX_MESSAGES = 1024
MAX_ROLE_CHARS = 64
MAX_TOOLS = 128
MAX_OPTIONS_BYTES = 1 << 16
# What a template is given anyway, and what rendering it takes.
OURS = {
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "bos_token", "eos_token",
}  # fmt: skip
TOOL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_chat(chat: pb.ChatMessages, limits: Limits, violations: Violations) -> None:
    """Check everything that can be said before the messages are rendered."""
    num_messages = len(chat.messages)
    if not violations.require(
        0 < num_messages <= MAX_MESSAGES,
        "chat.messages",
        f"must be 1 to {MAX_MESSAGES} messages",
        num_messages,
    ):
        return
    for i, message in enumerate(chat.messages):
        _check_message(message, f"chat.messages[{i}]", violations)
    num_bytes = sum(_num_bytes(message) for message in chat.messages)
    num_bytes += sum(len(f"{tool.description}{tool.parameters}".encode()) for tool in chat.tools)
    problem = f"must hold at most {limits.max_text_bytes} bytes together"
    violations.require(num_bytes <= limits.max_text_bytes, "chat.messages", problem, num_bytes)
    last = chat.messages[-1]
    is_right = not chat.continues_last or (last.role == "assistant" and bool(last.content.strip()))
    problem = "needs a last message of role assistant that says something"
    violations.require(is_right, "chat.continues_last", problem, last.role)
    _check_tools(chat, violations)
    _check_options(chat.template_options, violations)


def parse_conversation(chat: pb.ChatMessages) -> Conversation:
    """Return checked messages and tools."""
    return Conversation(
        tuple(_message(message) for message in chat.messages),
        tuple(Tool(tool.name, tool.description, tool.parameters) for tool in chat.tools),
        json.loads(chat.template_options or "{}"),
        continues_last=chat.continues_last,
    )


def parse_tool_use(chat: pb.ChatMessages, conversation: Conversation) -> ToolUse:
    """Return what the answer may do with the tools."""
    return ToolUse(
        tools=conversation.tools,
        choice=Choice(chat.tool_choice or Choice.AUTO),
        name=chat.tool_name,
        is_single=chat.single_call or bool(chat.tool_name),
    )


def _check_message(message: pb.ChatMessage, field: str, violations: Violations) -> None:
    violations.require(
        0 < len(message.role) <= MAX_ROLE_CHARS and message.role.isprintable(),
        f"{field}.role",
        f"must be 1 to {MAX_ROLE_CHARS} printable characters",
        message.role,
    )
    for i, call in enumerate(message.tool_calls):
        violations.require(bool(call.name), f"{field}.tool_calls[{i}].name", "must not be empty")


def _check_tools(chat: pb.ChatMessages, violations: Violations) -> None:
    names = [tool.name for tool in chat.tools]
    field, count = "chat.tools", len(names)
    if not violations.require(
        count <= MAX_TOOLS, field, f"must be at most {MAX_TOOLS} tools", count
    ):
        return
    for i, tool in enumerate(chat.tools):
        is_name = TOOL_NAME.fullmatch(tool.name) is not None
        problem = "must be 1 to 64 of A-Z a-z 0-9 . _ -"
        violations.require(is_name, f"{field}[{i}].name", problem, tool.name)
        is_first = names.index(tool.name) == i
        violations.require(is_first, f"{field}[{i}].name", "is the name of two tools", tool.name)
        if tool.parameters:
            check_schema(tool.parameters, f"{field}[{i}].parameters", violations)
    _check_choice(chat, names, violations)


def _check_choice(chat: pb.ChatMessages, names: list[str], violations: Violations) -> None:
    number = chat.tool_choice  # 0 takes the default
    field = "chat.tool_choice"
    if not violations.require(number in (0, *Choice), field, "is unknown", number):
        return
    is_required = number == pb.ChatMessages.TOOL_CHOICE_REQUIRED
    violations.require(
        bool(names) or not is_required, field, "requires a call, but there are no tools"
    )
    field, name = "chat.tool_name", chat.tool_name
    violations.require(is_required or not name, field, "needs TOOL_CHOICE_REQUIRED", name)
    violations.require(not name or name in names, field, "is not one of the tools", name)


def _check_options(text: str, violations: Violations) -> None:
    field = "chat.template_options"
    if not text or not check_len(text, field, MAX_OPTIONS_BYTES, violations):
        return
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        options = None
    if violations.require(isinstance(options, dict), field, "must be a JSON object", text):
        for name in sorted(OURS & set(options)):
            violations.require(False, f"{field}.{name}", "is not an option: it is set otherwise")


def _message(message: pb.ChatMessage) -> ChatMessage:
    return ChatMessage(
        role=message.role,
        content=message.content,
        calls=tuple(Call(call.id, call.name, call.arguments) for call in message.tool_calls),
        call_id=message.tool_call_id,
        reasoning=message.reasoning,
    )


def _num_bytes(message: pb.ChatMessage) -> int:
    calls = sum(len(f"{call.name}{call.arguments}".encode()) for call in message.tool_calls)
    return len(f"{message.content}{message.reasoning}".encode()) + calls
