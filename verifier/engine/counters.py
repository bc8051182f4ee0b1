"""What the engine counts, as plain numbers: steps, tokens, drafts, requests and their times.

Tokens are counted as they are emitted, after stop handling: what lies behind an end inside an
accepted run counts nowhere.
"""

from collections import Counter
from dataclasses import dataclass

from rpc.contract import Source
from rpc.metrics import REQUEST_S, STEP_S, Histogram
from verifier.engine.answer import Told
from verifier.engine.clock import PlainStep
from verifier.engine.events import Completion
from verifier.engine.sequence import Sequence
from verifier.engine.step import StepResult, Work
from verifier.speculation.budget import StepCurve

EMITTED_PER_STEP = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
MS = 1e-3
OVERHEAD_MEMORY = 0.9  # what of the running overhead stays at each step


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counts and seconds of one step."""

    num_decoding: int  # sequences past their prompt
    num_prompt_rows: int
    num_draft_nodes: int  # drafted tokens verified
    num_expected: float  # of them to be accepted: the sum of their calibrated probabilities
    num_accepted: int
    num_emitted: int  # tokens of decoding sequences
    is_drafting: bool  # drafts were asked for; perhaps none was worth verifying
    step_s: float  # from the end of the step before, waiting for drafts included
    forward_s: float
    draft_wait_s: float

    @classmethod
    def of(
        cls,
        works: list[Work],
        step: StepResult,
        emitted: list[int],
        *,
        is_drafting: bool,
        step_s: float,
        draft_wait_s: float,
    ) -> "StepStats":
        """Count a step's works and results; `emitted`: tokens that each of them decoded."""
        num_decoding = num_prompt_rows = num_draft_nodes = num_accepted = 0
        num_expected = 0.0
        for work, result in zip(works, step.results, strict=True):
            if work.segment.tree is None:
                num_prompt_rows += work.segment.num_rows
                continue
            num_decoding += 1
            num_draft_nodes += len(result.tree)
            num_expected += sum(result.tree.probabilities)
            if result.accepted is not None:
                num_accepted += len(result.accepted.path)
        return cls(
            num_decoding=num_decoding,
            num_prompt_rows=num_prompt_rows,
            num_draft_nodes=num_draft_nodes,
            num_expected=num_expected,
            # Every decoding sequence emits one token more than it accepts, but for ends, which
            # may not count more than was emitted.
            num_accepted=min(num_accepted, sum(emitted)),
            num_emitted=sum(emitted),
            is_drafting=is_drafting,
            step_s=step_s,
            forward_s=step.forward_s,
            draft_wait_s=draft_wait_s,
        )


def saved_beside_prompts(stats: StepStats, curve: StepCurve) -> float:
    """Plain steps' worth of time that the drafts of a step with prompt rows saved.

    No two such steps are alike, so what the drafted rows added comes from the curve; what they
    brought was counted. Prompt rows would have been read with or without them.
    """
    num_rows = stats.num_decoding + stats.num_prompt_rows
    added_s = curve.at(num_rows + stats.num_draft_nodes) - curve.at(num_rows)
    taken = added_s / curve.at(stats.num_decoding)
    return stats.num_emitted / stats.num_decoding - 1.0 - taken


class PlainTime:
    """Prices steps; follows what the engine adds to a pass, which the curve does not hold."""

    def __init__(self, curve: StepCurve) -> None:
        self._curve = curve
        self._overhead_s = 0.0

    def of(self, works: list[Work], forward_s: float) -> PlainStep:
        """Price the step of these works."""
        decoding = [work.segment.num_rows for work in works if work.is_decoding]
        if sum(decoding) == len(decoding):
            return PlainStep(forward_s + self._overhead_s)
        plain_s, drafted_s = self._curve.at(len(decoding)), self._curve.at(sum(decoding))
        has_prompts = len(decoding) < len(works)
        prompts_s = max(forward_s - drafted_s, 0.0) if has_prompts else 0.0
        return PlainStep(plain_s + self._overhead_s, prompts_s)

    def track(self, overhead_s: float) -> None:
        """Follow what the engine added to a step just measured."""
        self._overhead_s += (1 - OVERHEAD_MEMORY) * (max(overhead_s, 0.0) - self._overhead_s)


class Counters:
    """One engine's counts since its start. Written on the event loop only, but for preemptions."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from zero: what was generated to warm up is not to be counted."""
        self.num_prompt_tokens = 0
        self.num_generation_tokens = 0
        self.num_preemptions = 0
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_expected = 0.0
        self.accepted_by_source: Counter[Source] = Counter()
        self.accepted_by_position: Counter[int] = Counter()
        self.finished: Counter[str] = Counter()
        self.emitted_per_step = Histogram(EMITTED_PER_STEP)
        self.step_s = Histogram(STEP_S)
        self.forward_s = Histogram(STEP_S)
        self.draft_wait_s = Histogram(STEP_S)
        self.time_to_first_token_s = Histogram(REQUEST_S)
        self.request_s = Histogram(REQUEST_S)
        self.queue_s = Histogram(REQUEST_S)
        self.prefill_s = Histogram(REQUEST_S)
        self.decode_s = Histogram(REQUEST_S)
        self.time_per_output_token_s = Histogram(STEP_S)

    def count_step(self, stats: StepStats) -> None:
        """Count one pass over all sequences."""
        self.step_s.observe(stats.step_s)
        self.forward_s.observe(stats.forward_s)
        self.num_expected += stats.num_expected
        if stats.is_drafting:
            self.draft_wait_s.observe(stats.draft_wait_s)

    def count_emission(self, sequence: Sequence, told: Told) -> None:
        """Count what a step emitted for one sequence."""
        self.num_generation_tokens += told.num_tokens
        if told.is_first:
            self._count_first(sequence)
            return
        self.emitted_per_step.observe(told.num_tokens)
        self.num_drafts += told.num_verified > 0
        self.num_draft_tokens += told.num_verified
        self.accepted_by_source.update(told.sources)
        self.accepted_by_position.update(range(told.num_accepted))

    def count_end(self, completion: Completion) -> None:
        """Count a request that came to its end."""
        self.finished[completion.finish.reason.name.lower()] += 1
        queue_s, prefill_s = completion.queue_ms * MS, completion.prefill_ms * MS
        decode_s = completion.decode_ms * MS
        self.queue_s.observe(queue_s)
        self.prefill_s.observe(prefill_s)
        self.decode_s.observe(decode_s)
        self.request_s.observe(queue_s + prefill_s + decode_s)
        if completion.num_output_tokens > 1:
            self.time_per_output_token_s.observe(decode_s / (completion.num_output_tokens - 1))

    def _count_first(self, sequence: Sequence) -> None:
        self.num_prompt_tokens += sequence.num_prompt
        self.time_to_first_token_s.observe(sequence.clock.first_token - sequence.clock.submitted)
