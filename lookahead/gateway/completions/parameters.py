"""The parameters that both of OpenAI's completions share, as the contract has them."""

from lookahead.gateway.completions.constraint import constraint
from lookahead.gateway.errors import invalid
from lookahead.gateway.namespaces import narrowed
from lookahead.gateway.request import Caller
from lookahead.gateway.schema import Generation, Lookahead, text_of
from protos import verifier_pb2 as pb


def template(request: Generation, caller: Caller) -> pb.GenerateRequest:
    """Return everything but the prompt, the seed, the id and log probabilities."""
    return pb.GenerateRequest(
        sampling=_sampling(request),
        stopping=_stopping(request),
        output=_output(request, caller),
        speculation=_speculation(request, caller),
        constraint=constraint(request),
    )


def _sampling(request: Generation) -> pb.Sampling:
    return pb.Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=None if request.top_k is None else max(0, request.top_k),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        logit_bias=request.logit_bias,
        model_defaults=True,
    )


def _stopping(request: Generation) -> pb.Stopping:
    return pb.Stopping(
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens,
        stop_strings=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        include_stop_string=request.include_stop_str_in_output,
    )


def _speculation(request: Generation, caller: Caller) -> pb.Speculation:
    made = drafting(request.lookahead, caller, user=request.user, salt=request.cache_salt)
    if request.prediction is not None:
        made.prediction = text_of(request.prediction.content)
    return made


def _output(request: Generation, caller: Caller) -> pb.Output:
    check_drafts_shown(request.lookahead, caller)
    return pb.Output(
        special_tokens=not request.skip_special_tokens,
        draft_trees=request.lookahead.draft_trees,
    )


def drafting(
    wanted: Lookahead, caller: Caller, *, user: str | None = None, salt: str | None = None
) -> pb.Speculation:
    """Return how drafts are used, in the namespace that the request may use."""
    namespace = narrowed(caller.namespace, inner=wanted.namespace, user=user, salt=salt)
    return pb.Speculation(
        mode=f"MODE_{(wanted.mode or 'unspecified').upper()}",  # type: ignore[arg-type]
        max_nodes=wanted.max_nodes,
        max_depth=wanted.max_depth,
        namespace=namespace,
        learn=f"LEARNING_{(wanted.learn or 'unspecified').upper()}",  # type: ignore[arg-type]
    )


def check_drafts_shown(wanted: Lookahead, caller: Caller) -> None:
    """Refuse to show drafts to those who may not see them."""
    if wanted.draft_trees and not caller.may_see_drafts:
        problem = "is not allowed by this server: drafts show text of others in the namespace"
        raise invalid("lookahead.draft_trees", problem)
