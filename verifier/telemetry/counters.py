"""What a verifier counts, as plain numbers: steps, tokens, drafts, requests and their times.

Tokens are counted as they are emitted, after stop handling: what lies behind an end inside an
accepted run counts nowhere.
"""

from collections import Counter

from rpc.histogram import REQUEST_S, STEP_S, Histogram
from verifier.engine.events import Completion
from verifier.engine.sequence import Sequence
from verifier.engine.step_stats import StepStats
from verifier.speculation.acceptance import Accepted
from verifier.speculation.tree import DraftTree

# The contract's numbers for where a drafted token came from.
SOURCES = ("unknown", "local", "namespace", "successors", "constraint")
EMITTED_PER_STEP = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
MS = 1e-3


class Counters:
    """One engine's counts since its start. Written on the event loop only."""

    def __init__(self) -> None:
        self.num_prompt_tokens = 0
        self.num_generation_tokens = 0
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_expected = 0.0
        self.num_rechecks = 0
        self.accepted_by_source: Counter[int] = Counter()
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

    def count_emission(
        self, sequence: Sequence, tree: DraftTree, accepted: Accepted, num_emitted: int
    ) -> None:
        """Count what a step emitted for one sequence."""
        self.num_generation_tokens += num_emitted
        self.num_rechecks += accepted.is_broken_off
        if num_emitted == sequence.num_output:  # the first ones come from the prompt's last row
            if num_emitted:
                self._count_first(sequence)
            return
        self.emitted_per_step.observe(num_emitted)
        self.num_drafts += len(tree) > 0
        self.num_draft_tokens += len(tree)
        for position, node in enumerate(accepted.path[:num_emitted]):
            self.accepted_by_position[position] += 1
            self.accepted_by_source[_source(tree, node)] += 1

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


def _source(tree: DraftTree, node: int) -> int:
    """Return where a node came from; what the drafter does not say, or invents, is unknown."""
    source = tree.sources[node] if tree.sources else 0
    return source if 0 <= source < len(SOURCES) else 0
