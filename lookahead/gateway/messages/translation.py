"""Conversations of Anthropic's API, as the contract has them."""

import json
import re

from lookahead.gateway.chat.thinking import set_options, thinking_options
from lookahead.gateway.completions.parameters import check_drafts_shown, drafting
from lookahead.gateway.messages.schema import (
    CountRequest,
    InputMessage,
    MessagesRequest,
    OutputForm,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from lookahead.gateway.request import Caller, FieldName, GenerationRequest
from lookahead.gateway.schema import text_of
from protos import verifier_pb2 as pb

CHOICES = {
    "auto": pb.ChatMessages.TOOL_CHOICE_UNSPECIFIED,
    "any": pb.ChatMessages.TOOL_CHOICE_REQUIRED,
    "tool": pb.ChatMessages.TOOL_CHOICE_REQUIRED,
    "none": pb.ChatMessages.TOOL_CHOICE_NONE,
}
FIELD_NAMES = (
    FieldName(re.compile(r"^chat\.messages.*"), "messages"),
    FieldName(re.compile(r"^chat\.continues_last$"), "messages"),
    FieldName(re.compile(r"^chat\.tools(\[\d+\])\.parameters"), r"tools\1.input_schema"),
    FieldName(re.compile(r"^chat\.tools(\[\d+\])\."), r"tools\1."),
    FieldName(re.compile(r"^chat\.tools$"), "tools"),
    FieldName(re.compile(r"^chat\.tool_choice$"), "tool_choice"),
    FieldName(re.compile(r"^chat\.tool_name$"), "tool_choice.name"),
    FieldName(re.compile(r"^chat\.template_options"), "chat_template_kwargs"),
    FieldName(re.compile(r"^constraint\b.*"), "output_config.format.schema"),
    FieldName(re.compile(r"^stopping\.stop_strings"), "stop_sequences"),
)


def messages_generation(
    request: MessagesRequest, caller: Caller, ignored: tuple[str, ...]
) -> GenerationRequest:
    """Return what a request asks for."""
    check_drafts_shown(request.lookahead, caller)
    form = request.output_config.format
    made = pb.GenerateRequest(
        sampling=pb.Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            model_defaults=True,
        ),
        stopping=pb.Stopping(max_tokens=request.max_tokens, stop_strings=request.stop_sequences),
        output=pb.Output(parts=True, draft_trees=request.lookahead.draft_trees),
        speculation=drafting(request.lookahead, caller, salt=request.cache_salt),
        constraint=None if form is None else _constraint(form),
    )
    return GenerationRequest(
        model=request.model,
        template=made,
        prompts=(pb.GenerateRequest(chat=conversation(request)),),
        seed=request.seed,
        stream=request.stream,
        ignored=ignored,
        field_names=FIELD_NAMES,
    )


def conversation(request: CountRequest) -> pb.ChatMessages:
    """Return the messages and tools of a request."""
    choice = request.tool_choice
    chat = pb.ChatMessages(
        tool_choice=CHOICES[choice.type],
        tool_name=choice.name,
        single_call=choice.disable_parallel_tool_use,
        # The API's way to begin an answer for the model.
        continues_last=request.messages[-1].role == "assistant",
    )
    if request.system:
        chat.messages.add(role="system", content="\n\n".join(p.text for p in request.system))
    for message in request.messages:
        _add(chat, message)
    for tool in request.tools:
        schema = json.dumps(tool.input_schema, ensure_ascii=False)
        chat.tools.add(name=tool.name, description=tool.description, parameters=schema)
    is_enabled = None if request.thinking is None else request.thinking.type != "disabled"
    options = thinking_options(is_enabled, request.output_config.effort)
    set_options(chat, options | request.chat_template_kwargs)
    return chat


def _constraint(form: OutputForm) -> pb.Constraint:
    return pb.Constraint(json_schema=json.dumps(form.definition))


def _add(chat: pb.ChatMessages, message: InputMessage) -> None:
    """Add a message; results of calls come first, as messages of their own."""
    made = pb.ChatMessage(role=message.role)
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            content = text_of(block.content)
            # Templates know no errors, so that the words must tell.
            said = f"Error: {content}" if block.is_error else content
            chat.messages.add(role="tool", content=said, tool_call_id=block.tool_use_id)
        elif isinstance(block, ToolUseBlock):
            arguments = json.dumps(block.input, ensure_ascii=False)
            made.tool_calls.add(id=block.id, name=block.name, arguments=arguments)
        elif isinstance(block, ThinkingBlock):
            made.reasoning += block.thinking
        else:
            made.content += block.text
    if made.content or made.tool_calls or made.reasoning or not message.content:
        chat.messages.append(made)
