"""Turns contract messages into plain values, and collects a stream into its result."""

import secrets
from collections.abc import Iterable
from typing import cast

from lookahead.client.results import (
    DraftTree,
    FinishReason,
    GenerationResult,
    MessagePart,
    ModelInfo,
    PartKind,
    Source,
    SpeculationSummary,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    TokenRun,
    ToolCall,
    Usage,
)
from protos import verifier_pb2 as pb
from rpc import contract

KINDS: dict[int, PartKind] = {
    pb.MessagePart.KIND_CONTENT: "content",
    pb.MessagePart.KIND_REASONING: "reasoning",
    pb.MessagePart.KIND_TOOL_CALL: "tool_call",
}


class Collector:
    """Takes a stream's messages one by one; knows what was started and, at the end, the result."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.result: GenerationResult | None = None
        self._runs: list[TokenRun] = []

    def take(self, response: pb.GenerateResponse) -> TokenRun | None:
        """Return the run that `response` carries, if it carries one."""
        event = response.WhichOneof("event")
        if event == "tokens":
            return self._keep(to_run(response.tokens))
        if event == "started":
            self.started = to_started(response.started)
        elif event == "finished":
            return self._finish(response.finished)
        return None

    def _keep(self, run: TokenRun) -> TokenRun:
        self._runs.append(run)
        return run

    def _finish(self, finished: pb.Finished) -> TokenRun | None:
        num_tokens = sum(len(run.token_ids) for run in self._runs)
        parts = _parts(finished.parts)
        tail = None
        if finished.text or parts:
            tail = TokenRun(num_tokens, (), finished.text, parts=parts)
        if tail is not None:
            self._runs.append(tail)
        self.result = to_result(self._runs, finished)
        return tail


def to_run(tokens: pb.Tokens) -> TokenRun:
    """Return the run of one Tokens message."""
    return TokenRun(
        first_index=tokens.first_index,
        token_ids=tuple(tokens.token_ids),
        text=tokens.text,
        num_drafted=tokens.num_drafted,
        drafted_text_len=tokens.drafted_text_len,
        sources=source_names(tokens.draft_sources),
        logprobs=tuple(
            TokenLogprobs(
                entry.logprob, tuple(TokenLogprob(top.token_id, top.logprob) for top in entry.top)
            )
            for entry in tokens.logprobs
        ),
        parts=_parts(tokens.parts),
        draft_tree=to_draft_tree(tokens.draft_tree) if tokens.HasField("draft_tree") else None,
    )


def to_draft_tree(tree: pb.DraftTree) -> DraftTree:
    """Return the tree that a step verified."""
    return DraftTree(
        token_ids=tuple(tree.token_ids),
        parents=tuple(tree.parents),
        probabilities=tuple(tree.probabilities),
        sources=source_names(tree.sources),
        texts=tuple(tree.texts),
        accepted=tuple(tree.accepted),
    )


def source_names(numbers: Iterable[int]) -> tuple[Source, ...]:
    """Return the names of the contract's sources."""
    # The names that the type lists are the labels of the table; a test compares them.
    return cast("tuple[Source, ...]", tuple(contract.Source.of(n).label for n in numbers))


def to_started(started: pb.Started) -> Started:
    """Return what the first message says."""
    mode = pb.Speculation.Mode.Name(started.speculation.mode)
    return Started(
        request_id=started.request_id,
        model=started.model,
        model_fingerprint=started.model_fingerprint,
        vocabulary_fingerprint=started.vocabulary_fingerprint,
        num_prompt_tokens=started.num_prompt_tokens,
        seed=started.sampling.seed,
        max_tokens=started.stopping.max_tokens,
        speculation=mode.removeprefix("MODE_").lower(),
    )


def to_result(runs: list[TokenRun], finished: pb.Finished) -> GenerationResult:
    """Return the whole of a finished stream."""
    reason = pb.Finished.FinishReason.Name(finished.reason).removeprefix("FINISH_REASON_").lower()
    summary = finished.speculation
    return GenerationResult(
        text="".join(run.text for run in runs),
        token_ids=tuple(token_id for run in runs for token_id in run.token_ids),
        # The contract never sends a reason besides these three.
        finish_reason=cast(FinishReason, reason),
        usage=Usage(
            finished.usage.num_prompt_tokens,
            finished.usage.num_output_tokens,
            finished.usage.num_reused_tokens,
            finished.usage.num_reasoning_tokens,
        ),
        timings=Timings(
            finished.timings.queue_ms,
            finished.timings.prefill_ms,
            finished.timings.decode_ms,
            finished.timings.plain_decode_ms,
        ),
        speculation=SpeculationSummary(
            summary.num_steps,
            summary.num_drafts,
            summary.num_draft_tokens,
            summary.num_accepted_tokens,
            tuple(summary.accept_len_histogram),
        ),
        stop_string=finished.stop_string or None,
        stop_token_id=finished.stop_token_id if finished.HasField("stop_token_id") else None,
        logprobs=tuple(entry for run in runs for entry in run.logprobs),
        content=_said(runs, "content"),
        reasoning=_said(runs, "reasoning"),
        tool_calls=_calls(runs),
    )


def _parts(parts: Iterable[pb.MessagePart]) -> tuple[MessagePart, ...]:
    return tuple(
        MessagePart(KINDS[part.kind], part.text, part.call_index, part.tool_name) for part in parts
    )


def _said(runs: list[TokenRun], kind: PartKind) -> str:
    return "".join(part.text for run in runs for part in run.parts if part.kind == kind)


def _calls(runs: list[TokenRun]) -> tuple[ToolCall, ...]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for part in (part for run in runs for part in run.parts if part.kind == "tool_call"):
        names.setdefault(part.call_index, part.tool_name)
        arguments[part.call_index] = arguments.get(part.call_index, "") + part.text
    return tuple(
        ToolCall(name, arguments[i], f"call_{secrets.token_hex(12)}") for i, name in names.items()
    )


def to_model_info(response: pb.GetModelResponse) -> ModelInfo:
    """Return the served model's description."""
    verification = pb.GetModelResponse.Verification.Name(response.verification)
    return ModelInfo(
        model=response.model,
        model_fingerprint=response.model_fingerprint,
        vocabulary_fingerprint=response.vocabulary_fingerprint,
        architecture=response.architecture,
        vocabulary_size=response.vocabulary_size,
        max_context_len=response.max_context_len,
        max_sequences=response.max_sequences,
        max_waiting=response.max_waiting,
        max_nodes=response.max_nodes,
        verification=verification.removeprefix("VERIFICATION_").lower().replace("_", " "),
        verification_reason=response.verification_reason,
        has_chat_template=response.has_chat_template,
        eos_token_ids=tuple(response.eos_token_ids),
        device=response.device,
        drafter_connected=response.drafter_connected,
        bitwise=response.bitwise,
        not_bitwise_reason=response.not_bitwise_reason,
        attention=response.attention,
        launch=response.launch,
        launch_reason=response.launch_reason,
        limits=dict(response.limits),
    )
