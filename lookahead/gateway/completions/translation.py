"""Texts to continue, as the contract has them."""

import re

from lookahead.gateway.completions.constraint import constraint_field
from lookahead.gateway.completions.format import CompletionShape, OpenAIFormat, UsageWanted
from lookahead.gateway.completions.parameters import template
from lookahead.gateway.completions.schema import CompletionRequest
from lookahead.gateway.errors import invalid
from lookahead.gateway.request import Caller, FieldName, GenerationRequest
from protos import verifier_pb2 as pb

CONSTRAINT = re.compile(r"^constraint\b.*")
FIELD_NAMES = (FieldName(re.compile(r"^output\.top_logprobs$"), "logprobs"),)


def completion_generation(
    request: CompletionRequest, caller: Caller, ignored: tuple[str, ...]
) -> GenerationRequest:
    """Return what a request asks for."""
    made = template(request, caller)
    if request.logprobs is not None:
        made.output.logprobs, made.output.top_logprobs = True, request.logprobs
    _ask_for_prompt(request, made)
    form = FieldName(CONSTRAINT, constraint_field(request))
    return GenerationRequest(
        model=request.model,
        template=made,
        prompts=tuple(map(_prompt, request.prompt)),
        n=request.n,
        seed=request.seed,
        stream=request.stream,
        ignored=ignored,
        field_names=(*FIELD_NAMES, form),
    )


def completion_format(request: CompletionRequest) -> OpenAIFormat:
    """Return how it is answered."""
    shape = CompletionShape(
        echoes=request.echo,
        hides_special=request.skip_special_tokens,
        has_logprobs=request.logprobs is not None,
        has_prompt_logprobs=request.prompt_logprobs is not None,
    )
    return OpenAIFormat(shape, UsageWanted.by(request))


def _ask_for_prompt(request: CompletionRequest, made: pb.GenerateRequest) -> None:
    wanted = request.prompt_logprobs
    if request.echo:
        wanted = max(wanted or 0, request.logprobs or 0)
    if wanted is None:
        return
    if request.stream:
        raise invalid("echo" if request.echo else "prompt_logprobs", "cannot be streamed")
    made.output.prompt_logprobs = wanted


def _prompt(prompt: str | list[int]) -> pb.GenerateRequest:
    if isinstance(prompt, str):
        return pb.GenerateRequest(text=prompt)
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt))
