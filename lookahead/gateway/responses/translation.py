"""Items of /v1/responses, as the contract has them."""

import json
import re
from collections.abc import Sequence

from lookahead.gateway.chat.thinking import set_options, thinking_options
from lookahead.gateway.chat.translation import CHOICES, ROLES
from lookahead.gateway.completions.parameters import check_drafts_shown, drafting
from lookahead.gateway.request import Caller, FieldName, GenerationRequest
from lookahead.gateway.responses.schema import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    InputText,
    Item,
    NamedTool,
    ResponsesRequest,
    TextForm,
)
from lookahead.gateway.responses.tools import functions, name_of
from protos import verifier_pb2 as pb

FIELD_NAMES = (
    FieldName(re.compile(r"^chat\.messages.*"), "input"),
    FieldName(re.compile(r"^chat$"), "input"),
    FieldName(re.compile(r"^chat\.tools(\[\d+\])\."), r"tools\1."),
    FieldName(re.compile(r"^chat\.tools$"), "tools"),
    FieldName(re.compile(r"^chat\.tool_choice$"), "tool_choice"),
    FieldName(re.compile(r"^chat\.tool_name$"), "tool_choice.name"),
    FieldName(re.compile(r"^chat\.template_options"), "chat_template_kwargs"),
    FieldName(re.compile(r"^constraint\b.*"), "text.format.schema"),
    FieldName(re.compile(r"^stopping\.max_tokens$"), "max_output_tokens"),
)


def responses_generation(
    request: ResponsesRequest, caller: Caller, ignored: tuple[str, ...]
) -> GenerationRequest:
    """Return what a request asks for."""
    check_drafts_shown(request.lookahead, caller)
    made = pb.GenerateRequest(
        sampling=pb.Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            model_defaults=True,
        ),
        stopping=pb.Stopping(max_tokens=request.max_output_tokens),
        output=pb.Output(parts=True, draft_trees=request.lookahead.draft_trees),
        speculation=drafting(request.lookahead, caller, user=request.user, salt=request.cache_salt),
        constraint=_constraint(request.text.format),
    )
    return GenerationRequest(
        model=request.model,
        template=made,
        prompts=(pb.GenerateRequest(chat=_conversation(request)),),
        seed=request.seed,
        stream=request.stream,
        ignored=ignored,
        field_names=FIELD_NAMES,
    )


def _conversation(request: ResponsesRequest) -> pb.ChatMessages:
    chat = pb.ChatMessages(single_call=not request.parallel_tool_calls)
    if request.instructions:
        chat.messages.add(role="system", content=request.instructions)
    for item in request.input:
        _add(chat, item)
    for name, tool in functions(request.tools):
        schema = "" if tool.parameters is None else json.dumps(tool.parameters, ensure_ascii=False)
        chat.tools.add(name=name, description=tool.description, parameters=schema)
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        chat.tool_choice, chat.tool_name = CHOICES["required"], choice.name
    else:
        chat.tool_choice = CHOICES[choice]
    options = thinking_options(None, request.reasoning.effort)
    set_options(chat, options | request.chat_template_kwargs)
    return chat


def _add(chat: pb.ChatMessages, item: Item) -> None:
    """Add an item; thoughts, words and calls of one answer are one message."""
    if isinstance(item, FunctionCallOutput):
        content = _text(item.output)
        chat.messages.add(role="tool", content=content, tool_call_id=item.call_id)
    elif isinstance(item, FunctionCall):
        name = name_of(item.name, item.namespace)
        call = pb.ToolCall(id=item.call_id, name=name, arguments=item.arguments)
        _answer(chat).tool_calls.append(call)
    elif isinstance(item, InputMessage):
        role = ROLES.get(item.role, item.role)
        is_answer = role == "assistant"
        message = _answer(chat, wordless=True) if is_answer else chat.messages.add(role=role)
        message.content = _text(item.content)
    else:
        # Reasoning comes before what it belongs to.
        thought = _text(item.content) or _text(item.summary)
        chat.messages.add(role="assistant", reasoning=thought)


def _answer(chat: pb.ChatMessages, *, wordless: bool = False) -> pb.ChatMessage:
    """The answer that goes on, or a new one; `wordless`: one that has said nothing yet."""
    last = chat.messages[-1] if chat.messages else None
    if last is None or last.role != "assistant":
        return chat.messages.add(role="assistant")
    if wordless and (last.content or last.tool_calls):
        return chat.messages.add(role="assistant")
    return last


def _text(parts: Sequence[InputText]) -> str:
    return "".join(part.text for part in parts)


def _constraint(form: TextForm) -> pb.Constraint | None:
    if form.type == "text":
        return None
    schema = {"type": "object"} if form.definition is None else form.definition
    return pb.Constraint(json_schema=json.dumps(schema))
