"""Texts to continue, as the contract has them."""

import re

from lookahead.gateway.completions.constraint import constraint_field
from lookahead.gateway.completions.format import CompletionShape, OpenAIFormat, UsageWanted
from lookahead.gateway.completions.parameters import template
from lookahead.gateway.completions.schema import CompletionRequest
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
    return OpenAIFormat(CompletionShape(), UsageWanted.by(request))


def _prompt(prompt: str | list[int]) -> pb.GenerateRequest:
    if isinstance(prompt, str):
        return pb.GenerateRequest(text=prompt)
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt))
