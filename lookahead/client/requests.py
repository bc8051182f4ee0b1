"""Turns Python arguments into contract messages, and names the argument that does not fit."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from lookahead.client.errors import invalid_field
from lookahead.client.results import ChatMessage, ToolCall
from protos import verifier_pb2 as pb

SpeculationMode = Literal["auto", "off", "chain", "tree"]
Learning = Literal["all", "output", "none"]


class GenerateParams(TypedDict, total=False):
    """Everything that `generate` takes besides its input. Unset means the server's default."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    max_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_string: bool
    logprobs: bool
    top_logprobs: int
    special_tokens: bool
    draft_trees: bool
    json_schema: str | Mapping[str, object] | bool
    regex: str
    choices: Sequence[str]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str
    speculation: SpeculationMode
    max_nodes: int
    max_depth: int
    namespace: str
    learn: Learning
    prediction: str
    request_id: str


CONSTRAINTS = ("json_schema", "regex", "choices")
TOOL_CHOICES = ("auto", "none", "required")
# Where each other argument goes: the part of the request, and the field's name there.
PATHS: dict[str, tuple[str, str]] = {
    **{name: ("sampling", name) for name in pb.Sampling.DESCRIPTOR.fields_by_name},
    **{name: ("stopping", name) for name in pb.Stopping.DESCRIPTOR.fields_by_name},
    **{name: ("output", name) for name in pb.Output.DESCRIPTOR.fields_by_name},
    **{name: ("speculation", name) for name in pb.Speculation.DESCRIPTOR.fields_by_name},
    "stop": ("stopping", "stop_strings"),
    "speculation": ("speculation", "mode"),
}


def generate_request(
    prompt: str | None,
    messages: Iterable[ChatMessage] | None,
    token_ids: Iterable[int] | None,
    params: GenerateParams,
) -> pb.GenerateRequest:
    """Return the request, or raise InvalidRequest naming the argument."""
    if sum(given is not None for given in (prompt, messages, token_ids)) != 1:
        raise invalid_field("input", "give exactly one of prompt, messages and token_ids")
    request = pb.GenerateRequest()
    if prompt is not None:
        _assign(request, "text", prompt, "prompt")
    if messages is not None:
        request.chat.CopyFrom(chat_messages(messages))
    if token_ids is not None:
        request.token_ids.SetInParent()
        _assign(request.token_ids, "ids", token_ids, "token_ids")
    _set_params(request, params)
    return request


def chat_messages(messages: Iterable[ChatMessage]) -> pb.ChatMessages:
    """Return the conversation; each message needs role and content."""
    chat = pb.ChatMessages()
    for i, message in enumerate(messages):
        names = set(message)
        if not {"role", "content"} <= names <= {"role", "content", "tool_calls", "tool_call_id"}:
            raise invalid_field(f"messages[{i}]", f"needs role and content, got {sorted(message)}")
        added = chat.messages.add()
        for name, value in message.items():
            if name == "tool_calls":
                added.tool_calls.extend(_call(call, f"messages[{i}].{name}") for call in value)
            else:
                _assign(added, name, value, f"messages[{i}].{name}")
    return chat


def _call(call: object, name: str) -> pb.ToolCall:
    if not isinstance(call, ToolCall):
        raise invalid_field(name, f"takes calls as results have them, got {call!r}"[:300])
    return pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments)


def _set_params(request: pb.GenerateRequest, params: GenerateParams) -> None:
    for name, value in params.items():
        if name == "request_id":
            _assign(request, name, value, name)
            continue
        if name not in GenerateParams.__annotations__:
            raise TypeError(f"generate() got an unknown parameter {name!r}")
        if name in ("tools", "tool_choice"):
            _set_tools(request, name, value)
            continue
        if name in CONSTRAINTS:
            _set_constraint(request, name, value)
            continue
        part, field = PATHS[name]
        _assign(getattr(request, part), field, _converted(name, value), name)


def _set_tools(request: pb.GenerateRequest, name: str, value: Any) -> None:
    """Tools come in OpenAI's form, or as the functions inside it."""
    if not request.HasField("chat"):
        raise invalid_field(name, "needs messages")
    # The parts tell calls from what is said.
    request.output.parts = True
    if name == "tool_choice":
        is_mode = value in TOOL_CHOICES
        mode = value if is_mode else "required"
        number = _enum(pb.ChatMessages.ToolChoice, "TOOL_CHOICE", name, mode, TOOL_CHOICES)
        _assign(request.chat, name, number, name)
        _assign(request.chat, "tool_name", "" if is_mode else value, name)
        return
    for i, tool in enumerate(value):
        function, added = tool.get("function", tool), request.chat.tools.add()
        for field in ("name", "description"):
            _assign(added, field, function.get(field, ""), f"tools[{i}].{field}")
        if parameters := function.get("parameters"):
            added.parameters = json.dumps(parameters)


def _set_constraint(request: pb.GenerateRequest, name: str, value: object) -> None:
    given = request.constraint.WhichOneof("kind")
    if given is not None:
        raise invalid_field(name, f"cannot be given together with {given}")
    if name == "choices":
        request.constraint.choices.SetInParent()
        texts = [value] if isinstance(value, str) else value
        _assign(request.constraint.choices, "texts", texts, name)
        return
    if name == "json_schema" and isinstance(value, Mapping | bool):
        value = json.dumps(value)
    _assign(request.constraint, name, value, name)


def _converted(name: str, value: object) -> object:
    if name == "stop" and isinstance(value, str):
        return [value]
    if name == "speculation":
        return _enum(pb.Speculation.Mode, "MODE", name, value, get_args(SpeculationMode))
    if name == "learn":
        return _enum(pb.Speculation.Learning, "LEARNING", name, value, get_args(Learning))
    return value


def _enum(
    values: Any,  # generated enum wrappers share no public base class
    prefix: str,
    name: str,
    value: object,
    known: tuple[str, ...],
) -> int:
    if value not in known:
        raise invalid_field(name, f"must be one of {', '.join(known)}, got {value!r}")
    return int(values.Value(f"{prefix}_{str(value).upper()}"))


def _assign(message: Any, field: str, value: Any, name: str) -> None:
    """Set one field of any kind; protobuf's complaint about a value gets the argument's name."""
    try:
        if isinstance(value, Mapping):
            getattr(message, field).update(value)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise invalid_field(name, f"{error}, got {value!r}"[:300]) from None
