"""A verifier's metrics: names and meanings for what the engine counts.

Names are vLLM's where vLLM has the same thing, with our prefix.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from rpc.contract import Source
from rpc.metrics import PREFIX, counter, gauge, histogram, labelled_counter, labelled_gauge
from verifier.cache.pages import PAGE
from verifier.cache.stateful_slots import StatefulSlots
from verifier.engine.engine import Engine

GENERATE = "Generate"


class VerifierMetrics:
    """Reads the numbers when somebody scrapes; to be called on the engine's event loop."""

    def __init__(self, engine: Engine, calls: Mapping[tuple[str, str], int]) -> None:
        """`calls` counts calls that ended, by method and status."""
        self._engine = engine
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._engine_now()
        yield from self._requests()
        yield from self._steps()
        yield from self._speculation()
        yield from self._drafter()

    def _engine_now(self) -> Iterator[Metric]:
        engine = self._engine
        yield gauge("requests_waiting", "Requests waiting for a slot.", engine.num_waiting)
        yield gauge("requests_running", "Requests that have a slot.", engine.num_running)
        slots = engine.model.slots
        yield counter(
            "num_preemptions",
            "Times that a running request gave its pages to others and waited.",
            engine.counters.num_preemptions,
        )
        if isinstance(slots, StatefulSlots):
            return  # sequences have caches of their own
        usage = slots.pages.num_held / slots.pages.num_pages
        yield gauge(
            "kv_cache_usage_ratio", "Share of the cache's pages in use, from 0 to 1.", usage
        )
        info = GaugeMetricFamily(
            PREFIX + "cache_config_info",
            "Positions (block_size) and number (num_gpu_blocks) of the cache's pages; always 1.",
            labels=["block_size", "num_gpu_blocks"],
        )
        info.add_metric([str(PAGE), str(slots.pages.num_pages)], 1)
        yield info

    def _requests(self) -> Iterator[Metric]:
        counters = self._engine.counters
        yield counter(
            "prompt_tokens",
            "Prompt tokens of requests whose answer has begun.",
            counters.num_prompt_tokens,
        )
        yield counter(
            "generation_tokens",
            "Tokens emitted, after stop handling.",
            counters.num_generation_tokens,
        )
        yield labelled_counter(
            "request_success",
            "Finished requests, by finish reason.",
            "finish_reason",
            counters.finished,
        )
        yield labelled_counter(
            "request_errors",
            "Requests that failed, by gRPC status code.",
            "code",
            self._errors(),
        )
        for name, what, counted in (
            (
                "time_to_first_token",
                "Time from submission to the first token.",
                counters.time_to_first_token_s,
            ),
            ("e2e_request_latency", "Time from submission to the last token.", counters.request_s),
            ("request_queue_time", "Time from submission to a slot.", counters.queue_s),
            (
                "request_prefill_time",
                "Time from getting a slot to the first token.",
                counters.prefill_s,
            ),
            ("request_decode_time", "Time from the first token to the last.", counters.decode_s),
            (
                "time_per_output_token",
                "Decode time per token after the first, one observation per request.",
                counters.time_per_output_token_s,
            ),
        ):
            yield histogram(name + "_seconds", what, counted)

    def _steps(self) -> Iterator[Metric]:
        counters = self._engine.counters
        yield histogram(
            "step_latency_seconds",
            "Time of one engine step, including the wait for drafts.",
            counters.step_s,
        )
        yield histogram(
            "step_forward_seconds", "Time of a step's forward pass.", counters.forward_s
        )
        yield histogram(
            "draft_wait_seconds",
            "Time that drafting steps waited for their drafts.",
            counters.draft_wait_s,
        )
        yield histogram(
            "emitted_tokens_per_step",
            "Tokens emitted per decode step and sequence, after stop handling.",
            counters.emitted_per_step,
        )

    def _speculation(self) -> Iterator[Metric]:
        counters, controller = self._engine.counters, self._engine.drafting.controller
        yield counter("drafts", "Draft trees verified.", counters.num_drafts)
        yield counter("draft_tokens", "Drafted tokens verified.", counters.num_draft_tokens)
        yield counter(
            "draft_expected_tokens",
            "Sum of the probabilities of draft_tokens; accepted_tokens divided by it should be 1.",
            counters.num_expected,
        )
        yield labelled_counter(
            "accepted_tokens",
            "Accepted drafted tokens, by source.",
            "source",
            {source.label: counters.accepted_by_source[source] for source in Source},
        )
        yield labelled_counter(
            "accepted_tokens_per_position",
            "Accepted drafted tokens, by position in the draft, from 0.",
            "position",
            {str(i): n for i, n in sorted(counters.accepted_by_position.items())},
        )
        yield gauge(
            "speculation_gain_ratio",
            "Recent speed of drafting steps divided by that of plain steps.",
            controller.gain_ratio,
        )
        yield labelled_gauge(
            "speculation_state",
            "1 for the current state of drafting, 0 for the others.",
            "state",
            self._states(),
        )
        yield counter(
            "speculation_backoffs",
            "Times that drafting was switched off because it lost time.",
            controller.num_backoffs,
        )
        yield counter(
            "speculation_probes",
            "Times that drafting was tried again after it was switched off.",
            controller.num_probes,
        )

    def _drafter(self) -> Iterator[Metric]:
        drafts = self._engine.drafting.client
        if drafts is None:
            return
        yield gauge(
            "drafter_connected", "1 if a drafter is connected, else 0.", drafts.is_connected
        )
        yield counter("draft_replies", "Replies from the drafter.", drafts.num_replies)
        yield counter(
            "draft_deadline_missed",
            "Steps that ran without their drafts because these came too late.",
            drafts.num_deadline_misses,
        )
        yield counter(
            "draft_rejected_invalid",
            "Malformed drafts, which were ignored.",
            drafts.num_invalid,
        )

    def _states(self) -> dict[str, int]:
        engine = self._engine
        is_on = engine.drafting.controller.is_on
        connected = engine.drafting.is_connected
        return {
            "on": int(connected and is_on),
            "backed_off": int(connected and not is_on),
            "no_drafter": int(not connected),
        }

    def _errors(self) -> Counter[str]:
        errors: Counter[str] = Counter()
        for (method, code), number in self._calls.items():
            if method == GENERATE and code != "OK":
                errors[code] += number
        return errors
