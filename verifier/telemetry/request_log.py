"""What is told of a request once it is over: its line in the log, its counts, its spans.

Never a word of the prompt or the output.
"""

import logging

from rpc.errors import InvalidRequest, ServiceError
from rpc.tracing import Attributes, Span
from verifier.engine.clock import Clock, Phases
from verifier.engine.counters import Counters
from verifier.engine.events import Completion
from verifier.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_ID_CHARS = 128


def log_refusal(request_id: str, error: ServiceError) -> None:
    """Log a request that was not taken; the values of its fields may hold text, so only names."""
    fields = [v.field for v in error.violations] if isinstance(error, InvalidRequest) else []
    logger.info(
        "request_refused request_id=%r error=%s fields=%s",
        request_id[:MAX_ID_CHARS],
        type(error).__name__,
        ",".join(fields),
    )


class RequestLog:
    """Tells of the requests of one engine."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def complete(self, sequence: Sequence, completion: Completion, span: Span | None) -> None:
        """Tell of a request that came to its end."""
        self._counters.count_end(completion)
        self._tell(sequence, completion.finish.reason.name, span)

    def break_off(self, sequence: Sequence, reason: str, span: Span | None) -> None:
        """Tell of one that did not: its client left, or stopped reading, or the model failed."""
        self._tell(sequence, reason, span, error=reason)

    def _tell(self, sequence: Sequence, reason: str, span: Span | None, error: str = "") -> None:
        phases, stats = sequence.clock.phases(), sequence.answer.stats
        logger.info(
            "request_end request_id=%s reason=%s prompt_tokens=%d output_tokens=%d accepted=%d "
            "steps=%d queue_ms=%.1f prefill_ms=%.1f decode_ms=%.1f",
            sequence.request.request_id,
            reason,
            sequence.num_prompt,
            sequence.answer.num_tokens,
            stats.num_accepted,
            stats.num_steps,
            1e3 * phases.queue_s,
            1e3 * phases.prefill_s,
            1e3 * phases.decode_s,
        )
        if span is not None:
            _add_phases(span, sequence.clock, phases)
            span.end(_attributes(sequence, reason), error=error)


def _add_phases(span: Span, clock: Clock, phases: Phases) -> None:
    span.add_part("queue", phases.submitted, phases.admitted)
    if clock.admitted:
        span.add_part("prefill", phases.admitted, phases.first_token)
    if clock.first_token:
        span.add_part("decode", phases.first_token, phases.ended)


def _attributes(sequence: Sequence, reason: str) -> Attributes:
    return {
        "lookahead.request_id": sequence.request.request_id,
        "lookahead.finish_reason": reason.lower(),
        "lookahead.steps": sequence.answer.stats.num_steps,
        "lookahead.accepted_tokens": sequence.answer.stats.num_accepted,
        "gen_ai.usage.input_tokens": sequence.num_prompt,
        "gen_ai.usage.output_tokens": sequence.answer.num_tokens,
    }
