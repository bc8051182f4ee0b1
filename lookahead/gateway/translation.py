"""Translates an OpenAI request into requests of the contract, one for each choice."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from lookahead.gateway.errors import invalid
from lookahead.gateway.namespaces import narrowed
from lookahead.gateway.schema import (
    ChatRequest,
    CompletionRequest,
    Generation,
    Message,
    ResponseFormat,
)
from protos import verifier_pb2 as pb

SEEDS = 1 << 64
ROLES = {"developer": "system"}  # OpenAI's newer word for it; templates know the older one


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    request_id: str
    arrival: float  # monotonic
    namespace: str  # of the API key; empty: the server's default
    may_see_drafts: bool


def generate_requests(
    request: Generation, caller: Caller, *, seed: int
) -> list[pb.GenerateRequest]:
    """Return the calls to make: n for each prompt, with the seeds `seed`, `seed` + 1, …."""
    template = _template(request, caller)
    requests: list[pb.GenerateRequest] = []
    for prompt in _prompts(request):
        for i in range(request.n):
            call = pb.GenerateRequest()
            call.CopyFrom(template)
            call.MergeFrom(prompt)
            call.request_id = f"{caller.request_id}-{len(requests)}"
            call.sampling.seed = (seed + i) % SEEDS
            requests.append(call)
    return requests


def chat_messages(messages: list[Message]) -> pb.ChatMessages:
    """Return a conversation."""
    chat = pb.ChatMessages()
    for message in messages:
        chat.messages.add(role=ROLES.get(message.role, message.role), content=message.content)
    return chat


def renamed_fields(request: Generation) -> dict[str, str]:
    """Say what `request` calls some fields of the contract."""
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return {"stopping.max_tokens": "max_completion_tokens"}
    if isinstance(request, CompletionRequest):
        return {"output.top_logprobs": "logprobs"}
    return {}


def _prompts(request: Generation) -> Iterator[pb.GenerateRequest]:
    if isinstance(request, ChatRequest):
        yield pb.GenerateRequest(chat=chat_messages(request.messages))
    elif isinstance(request, CompletionRequest):
        for prompt in request.prompt:
            if isinstance(prompt, str):
                yield pb.GenerateRequest(text=prompt)
            else:
                yield pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt))


def _template(request: Generation, caller: Caller) -> pb.GenerateRequest:
    """Everything but the prompt, the seed and the id."""
    return pb.GenerateRequest(
        sampling=_sampling(request),
        stopping=_stopping(request),
        output=_output(request, caller),
        speculation=_speculation(request, caller),
        constraint=_constraint(request.response_format),
    )


def _sampling(request: Generation) -> pb.Sampling:
    return pb.Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        logit_bias=request.logit_bias,
    )


def _stopping(request: Generation) -> pb.Stopping:
    max_tokens = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        max_tokens = request.max_completion_tokens
    return pb.Stopping(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop_strings=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        include_stop_string=request.include_stop_str_in_output,
    )


def _output(request: Generation, caller: Caller) -> pb.Output:
    if request.lookahead.draft_trees and not caller.may_see_drafts:
        problem = "is not allowed by this server: drafts show text of others in the namespace"
        raise invalid("lookahead.draft_trees", problem)
    logprobs, top_logprobs = False, None
    if isinstance(request, ChatRequest):
        logprobs, top_logprobs = request.logprobs, request.top_logprobs
    elif isinstance(request, CompletionRequest) and request.logprobs is not None:
        logprobs, top_logprobs = True, request.logprobs
    return pb.Output(
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        special_tokens=not request.skip_special_tokens,
        draft_trees=request.lookahead.draft_trees,
    )


def _speculation(request: Generation, caller: Caller) -> pb.Speculation:
    wanted = request.lookahead
    namespace = narrowed(
        caller.namespace, inner=wanted.namespace, user=request.user, salt=request.cache_salt
    )
    return pb.Speculation(
        mode=f"MODE_{(wanted.mode or 'unspecified').upper()}",  # type: ignore[arg-type]
        max_nodes=wanted.max_nodes,
        max_depth=wanted.max_depth,
        namespace=namespace,
        learn=f"LEARNING_{(wanted.learn or 'unspecified').upper()}",  # type: ignore[arg-type]
        prediction="" if request.prediction is None else request.prediction.content,
    )


def _constraint(wanted: ResponseFormat | None) -> pb.Constraint | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return pb.Constraint(json_schema='{"type": "object"}')
    return pb.Constraint(json_schema=json.dumps(wanted.json_schema.definition))
