"""From the domain to the wire: the messages of a stream."""

from collections.abc import Callable, Iterable
from typing import cast

from protos import verifier_pb2 as pb
from verifier.chat.parts import Part, merged
from verifier.constraints.constraint import Kind
from verifier.constraints.grammar import Grammar
from verifier.engine.events import Completion, Event, PromptRun, TokenRun, VerifiedDraft
from verifier.request import Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.sampling.ranking import TokenLogprobs
from verifier.text.stopping import StoppingParams
from verifier.text.tokenizer import Tokenizer


def started_reply(request: Request, model: pb.GetModelResponse) -> pb.GenerateResponse:
    """What will be done, with all defaults filled in."""
    started = pb.Started(
        request_id=request.request_id,
        model=model.model,
        model_fingerprint=model.model_fingerprint,
        vocabulary_fingerprint=model.vocabulary_fingerprint,
        num_prompt_tokens=len(request.prompt_token_ids),
        sampling=_sampling(request.sampling),
        stopping=_stopping(request.stopping),
        speculation=_speculation(request.speculation),
        constraint=_constraint(request.grammar),
    )
    return pb.GenerateResponse(started=started)


def detokenized_reply(
    token_ids: list[int], tokenizer: Tokenizer, *, special_tokens: bool, each: bool
) -> pb.DetokenizeResponse:
    """The text of the ids, and of each alone."""
    tokens = [
        pb.TokenText(
            text=tokenizer.token_text(token_id),
            spelled=tokenizer.token_bytes(token_id),
            is_special=token_id in tokenizer.special_ids,
        )
        for token_id in (token_ids if each else ())
    ]
    text = tokenizer.decode(token_ids, special_tokens=special_tokens)
    return pb.DetokenizeResponse(text=text, tokens=tokens)


class Replies:
    """The messages of one stream after the first, which follow its text as it grows."""

    def __init__(self, request: Request, token_text: Callable[[int], str]) -> None:
        """`token_text`: what a drafted token reads like."""
        self._token_text = token_text
        self._parser = None if request.answer is None else request.answer.parser()
        self._num_reasoning_tokens = 0

    def of(self, event: Event) -> pb.GenerateResponse:
        """A run of tokens, or the end."""
        if isinstance(event, PromptRun):
            return pb.GenerateResponse(prompt=_prompt(event))
        if isinstance(event, TokenRun):
            tokens = _tokens(event, self._token_text)
            if self._parser is not None and self._parser.is_thinking:
                self._num_reasoning_tokens += len(event.token_ids)
            tokens.parts.extend(map(_part, self._parts(event.text)))
            return pb.GenerateResponse(tokens=tokens)
        finished = _finished(event)
        finished.usage.num_reasoning_tokens = self._num_reasoning_tokens
        finished.parts.extend(map(_part, self._last_parts(event.text)))
        return pb.GenerateResponse(finished=finished)

    def _parts(self, text: str) -> Iterable[Part]:
        return () if self._parser is None else self._parser.push(text)

    def _last_parts(self, text: str) -> Iterable[Part]:
        if self._parser is None:
            return ()
        return merged([*self._parser.push(text), *self._parser.finish()])


def _part(part: Part) -> pb.MessagePart:
    return pb.MessagePart(
        kind=cast("pb.MessagePart.Kind.ValueType", part.kind),  # numbered alike
        text=part.text,
        call_index=part.call_index,
        tool_name=part.tool_name,
    )


def _tokens(run: TokenRun, token_text: Callable[[int], str]) -> pb.Tokens:
    return pb.Tokens(
        first_index=run.first_index,
        token_ids=run.token_ids,
        text=run.text,
        num_drafted=run.num_drafted,
        drafted_text_len=run.drafted_text_len,
        logprobs=[_logprobs(logprobs) for logprobs in run.logprobs],
        # Both contracts number the sources alike; this one has one more.
        draft_sources=cast("tuple[pb.DraftSource.ValueType, ...]", run.sources),
        draft_tree=None if run.draft is None else _draft_tree(run.draft, token_text),
    )


def _prompt(run: PromptRun) -> pb.PromptTokens:
    return pb.PromptTokens(
        first_index=run.first_index,
        token_ids=run.token_ids,
        logprobs=[_logprobs(logprobs) for logprobs in run.logprobs],
    )


def _draft_tree(draft: VerifiedDraft, token_text: Callable[[int], str]) -> pb.DraftTree:
    tree = draft.tree
    return pb.DraftTree(
        token_ids=tree.token_ids,
        parents=tree.parents,
        probabilities=tree.probabilities,
        sources=cast("tuple[pb.DraftSource.ValueType, ...]", tree.sources),
        texts=[token_text(token_id) for token_id in tree.token_ids],
        accepted=draft.accepted,
    )


def _logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    top = [pb.TokenLogprob(token_id=i, logprob=logprob) for i, logprob in logprobs.top]
    return pb.TokenLogprobs(logprob=logprobs.logprob, top=top, rank=logprobs.rank)


def _finished(completion: Completion) -> pb.Finished:
    return pb.Finished(
        reason=pb.Finished.FinishReason.Value(f"FINISH_REASON_{completion.finish.reason.name}"),
        stop_string=completion.finish.stop_string,
        stop_token_id=completion.finish.stop_token_id,
        text=completion.text,
        usage=pb.Usage(
            num_prompt_tokens=completion.num_prompt_tokens,
            num_output_tokens=completion.num_output_tokens,
            num_reused_tokens=completion.num_reused_tokens,
        ),
        timings=pb.Timings(
            queue_ms=completion.queue_ms,
            prefill_ms=completion.prefill_ms,
            decode_ms=completion.decode_ms,
            plain_decode_ms=completion.plain_decode_ms,
        ),
        speculation=pb.SpeculationSummary(
            num_steps=completion.num_steps,
            num_drafts=completion.num_drafts,
            num_draft_tokens=completion.num_draft_tokens,
            num_accepted_tokens=completion.num_accepted_tokens,
            accept_len_histogram=completion.accept_len_histogram,
        ),
    )


def _sampling(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=dict(params.logit_bias),
        seed=params.seed,
    )


def _stopping(params: StoppingParams) -> pb.Stopping:
    return pb.Stopping(
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_strings=params.stop_strings,
        stop_token_ids=sorted(params.stop_token_ids),
        ignore_eos=not params.eos_token_ids,
        include_stop_string=params.include_stop_string,
    )


def _constraint(grammar: Grammar | None) -> pb.Constraint | None:
    if grammar is None or grammar.constraint.kind is Kind.ANSWER:
        return None
    constraint = grammar.constraint
    if constraint.kind is Kind.JSON_SCHEMA:
        return pb.Constraint(json_schema=constraint.texts[0])
    if constraint.kind is Kind.REGEX:
        return pb.Constraint(regex=constraint.texts[0])
    if constraint.kind is Kind.GRAMMAR:
        return pb.Constraint(grammar=constraint.texts[0])
    return pb.Constraint(choices=pb.Choices(texts=constraint.texts))


def _speculation(speculation: Speculation) -> pb.Speculation:
    """All but the prediction, which its sender has."""
    return pb.Speculation(
        mode=pb.Speculation.Mode.Value(f"MODE_{speculation.mode.name}"),
        max_nodes=speculation.max_nodes,
        max_depth=speculation.max_depth,
        namespace=speculation.namespace,
        learn=pb.Speculation.Learning.Value(f"LEARNING_{speculation.learn.name}"),
    )
