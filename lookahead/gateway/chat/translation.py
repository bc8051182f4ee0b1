"""Conversations of OpenAI's chat API, as the contract has them."""

import json
import re
from collections.abc import Sequence

from lookahead.gateway.chat.format import ChatShape
from lookahead.gateway.chat.schema import ChatRequest, Message, NamedTool, Tool
from lookahead.gateway.chat.thinking import set_options, thinking_options
from lookahead.gateway.completions.constraint import constraint_field
from lookahead.gateway.completions.format import OpenAIFormat, UsageWanted
from lookahead.gateway.completions.parameters import template
from lookahead.gateway.request import Caller, FieldName, GenerationRequest
from lookahead.gateway.schema import text_of
from protos import verifier_pb2 as pb

ROLES = {"developer": "system"}  # OpenAI's newer word for it; templates know the older one
CHOICES = {
    "none": pb.ChatMessages.TOOL_CHOICE_NONE,
    "auto": pb.ChatMessages.TOOL_CHOICE_UNSPECIFIED,
    "required": pb.ChatMessages.TOOL_CHOICE_REQUIRED,
}
CONSTRAINT = re.compile(r"^constraint\b.*")
FIELD_NAMES = (
    FieldName(
        re.compile(r"^chat\.messages(\[\d+\]\.tool_calls\[\d+\])\."), r"messages\1.function."
    ),
    FieldName(re.compile(r"^chat\.tools(\[\d+\])\."), r"tools\1.function."),
    FieldName(re.compile(r"^chat\.tools$"), "tools"),
    FieldName(re.compile(r"^chat\.tool_choice$"), "tool_choice"),
    FieldName(re.compile(r"^chat\.template_options"), "chat_template_kwargs"),
    FieldName(re.compile(r"^chat\.continues_last$"), "continue_final_message"),
    FieldName(re.compile(r"^chat\.tool_name$"), "tool_choice.function.name"),
)
NEWER_LIMIT = FieldName(re.compile(r"^stopping\.max_tokens$"), "max_completion_tokens")


def chat_generation(
    request: ChatRequest, caller: Caller, ignored: tuple[str, ...]
) -> GenerationRequest:
    """Return what a request asks for."""
    made = template(request, caller)
    made.stopping.ClearField("max_tokens")
    if request.output_limit is not None:
        made.stopping.max_tokens = request.output_limit
    made.output.logprobs = request.logprobs
    if request.top_logprobs is not None:
        made.output.top_logprobs = request.top_logprobs
    made.output.parts = True
    newer = () if request.max_completion_tokens is None else (NEWER_LIMIT,)
    form = FieldName(CONSTRAINT, constraint_field(request))
    return GenerationRequest(
        model=request.model,
        template=made,
        prompts=(pb.GenerateRequest(chat=_conversation(request)),),
        n=request.n,
        seed=request.seed,
        stream=request.stream,
        ignored=ignored,
        field_names=(*newer, *FIELD_NAMES, form),
    )


def chat_format(request: ChatRequest) -> OpenAIFormat:
    """Return how it is answered."""
    return OpenAIFormat(ChatShape(), UsageWanted.by(request))


def chat_messages(messages: Sequence[Message]) -> pb.ChatMessages:
    """Return messages without tools that could be called."""
    chat = pb.ChatMessages()
    for message in messages:
        added = chat.messages.add(
            role=ROLES.get(message.role, message.role),
            content=text_of(message.content),
            tool_call_id=message.tool_call_id,
            reasoning=message.reasoning_content or message.reasoning,
        )
        for call in message.tool_calls:
            function = call.function
            added.tool_calls.add(id=call.id, name=function.name, arguments=function.arguments)
    return chat


def _conversation(request: ChatRequest) -> pb.ChatMessages:
    chat = chat_messages(request.messages)
    chat.tools.extend(map(_tool, request.tools))
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        chat.tool_choice, chat.tool_name = CHOICES["required"], choice.function.name
    else:
        chat.tool_choice = CHOICES[choice]
    chat.single_call = not request.parallel_tool_calls
    chat.continues_last = request.continue_final_message
    options = thinking_options(request.enable_thinking, request.reasoning_effort)
    set_options(chat, options | request.chat_template_kwargs)
    return chat


def _tool(tool: Tool) -> pb.Tool:
    function = tool.function
    parameters = function.parameters
    schema = "" if parameters is None else json.dumps(parameters, ensure_ascii=False)
    return pb.Tool(name=function.name, description=function.description, parameters=schema)
