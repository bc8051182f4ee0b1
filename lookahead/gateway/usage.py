"""Usage and the figures of drafting, summed over the choices of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice
from protos import verifier_pb2 as pb

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of an answer."""

    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompts'
    num_output_tokens: int
    num_reasoning_tokens: int = 0  # of the output's
    num_local_tokens: int = 0  # right drafts from the request itself

    @classmethod
    def of(cls, answer: Answer) -> "Usage":
        """Count; a prompt counts once, however many choices it has."""
        ends = _finished(answer.choices)
        by_prompt = [end.usage for end in ends[:: answer.request.n]]
        return cls(
            num_prompt_tokens=sum(usage.num_prompt_tokens for usage in by_prompt),
            num_cached_tokens=sum(usage.num_reused_tokens for usage in by_prompt),
            num_output_tokens=sum(end.usage.num_output_tokens for end in ends),
            num_reasoning_tokens=sum(end.usage.num_reasoning_tokens for end in ends),
            num_local_tokens=sum(choice.num_accepted.get("local", 0) for choice in answer.choices),
        )

    @classmethod
    def so_far(cls, answer: Answer) -> "Usage":
        """Count what has come of an answer that goes on."""
        by_prompt = [c.generating.started for c in answer.choices[:: answer.request.n]]
        return cls(
            num_prompt_tokens=sum(started.num_prompt_tokens for started in by_prompt),
            num_cached_tokens=0,  # told at the end
            num_output_tokens=sum(choice.num_tokens for choice in answer.choices),
        )


def parameters(answer: Answer) -> dict[str, float]:
    """Return the parameters in force, whoever set them: request, model or server."""
    started = answer.choices[0].generating.started
    # The contract's numbers have single precision: 0.6 should not read 0.6000000238418579.
    sampling = {name: round(getattr(started.sampling, name), 6) for name in SAMPLING}
    return {**sampling, "max_tokens": started.stopping.max_tokens}


def speculation(answer: Answer) -> dict[str, Any]:
    """Return our `lookahead` field: speeds, drafts, times, and fields without effect."""
    finished = _finished(answer.choices)
    summaries = [end.speculation for end in finished]
    decode_ms = sum(end.timings.decode_ms for end in finished)
    plain_ms = sum(end.timings.plain_decode_ms for end in finished)
    # The first token of a choice comes with the prompt and takes no step.
    num_decoded = sum(max(0, end.usage.num_output_tokens - 1) for end in finished)
    num_steps = sum(summary.num_steps for summary in summaries)
    found: dict[str, Any] = {
        "seed": answer.seed,
        "parameters": parameters(answer),
        "tokens_per_second": _ratio(1000 * num_decoded, decode_ms),
        "tokens_per_step": _ratio(num_decoded, num_steps),
        "gain": _ratio(plain_ms, decode_ms) if plain_ms else None,
        "num_steps": num_steps,
        "num_drafts": sum(summary.num_drafts for summary in summaries),
        "num_draft_tokens": sum(summary.num_draft_tokens for summary in summaries),
        "num_accepted_tokens": sum(summary.num_accepted_tokens for summary in summaries),
        "accepted_by_source": _by_source(answer.choices),
        "accept_len_histogram": _histogram(summaries),
        "queue_ms": round(sum(end.timings.queue_ms for end in finished), 3),
        "prefill_ms": round(sum(end.timings.prefill_ms for end in finished), 3),
        "decode_ms": round(decode_ms, 3),
    }
    if answer.request.ignored:
        found["ignored"] = list(answer.request.ignored)
    return found


def _finished(choices: Sequence[Choice]) -> list[pb.Finished]:
    return [choice.finished for choice in choices if choice.finished is not None]


def _by_source(choices: Sequence[Choice]) -> dict[str, int]:
    names = sorted({name for choice in choices for name in choice.num_accepted})
    return {name: sum(c.num_accepted.get(name, 0) for c in choices) for name in names}


def _histogram(summaries: Sequence[pb.SpeculationSummary]) -> list[int]:
    rows = (summary.accept_len_histogram for summary in summaries)
    return [sum(counts) for counts in zip_longest(*rows, fillvalue=0)]


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole > 0 else 0.0
