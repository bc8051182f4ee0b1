"""When the engine asks for drafts, how long it waits, and what it learns from what they brought.

Everything here does nothing where there is no drafter.
"""

import time
from collections.abc import Sequence as Sequences

import numpy as np

from verifier.engine.sequence import Sequence
from verifier.engine.step import Result, StepResult
from verifier.engine.step_stats import StepStats
from verifier.speculation.budget import StepCurve
from verifier.speculation.controller import Controller
from verifier.speculation.draft_backoff import DraftBackoff
from verifier.speculation.draft_client import DraftClient

# A draft may take this share of a plain step before the step goes on without it.
DRAFT_SHARE = 0.25
MAX_DRAFT_WAIT_S = 0.02


class DraftCoordinator:
    """One engine's side of its drafter, and the controller that says whether it pays."""

    def __init__(self, client: DraftClient | None, curve: StepCurve) -> None:
        self.client = client
        self.controller = Controller(curve.plain_units())
        self._curve = curve
        self._asking = DraftBackoff()
        self._has_asked = False  # after the last step
        self._has_closed = False  # a sequence, and the drafter was not told yet

    @property
    def is_connected(self) -> bool:
        """Whether drafts can come."""
        return self.client is not None and self.client.is_connected

    def start(self) -> None:
        """Connect in the background."""
        if self.client is not None:
            self.client.start()

    async def stop(self) -> None:
        """Close the stream."""
        if self.client is not None:
            await self.client.stop()

    def is_on(self, running: Sequences[Sequence]) -> bool:
        """Whether the next step may verify drafts, and is to be judged by what they bring."""
        return self._may_draft(running) and any(s.uses_drafts and s.num_output for s in running)

    def wants_plain(self, running: Sequences[Sequence]) -> bool:
        """Whether the next step is one that drafting is compared with."""
        return self.client is not None and self.controller.is_on and not self._may_draft(running)

    def open(self, sequence: Sequence) -> None:
        """Let the drafter read a sequence's prompt while the model does."""
        if self.client is None or not sequence.uses_drafts:
            return
        self.client.open(
            sequence.id,
            sequence.token_ids,
            sequence.num_prompt,
            sequence.request.speculation,
            sequence.request.traceparent,
        )
        self._asking.open(sequence.id)
        self.client.request({})

    def close(self, sequence: Sequence, *, learn: bool) -> None:
        """Let go of a sequence; the drafter hears of it with the next request."""
        if self.client is not None:
            self.client.close(sequence.id, learn=learn)
            self._asking.forget(sequence.id)
            self._has_closed = True

    def observe(self, result: Result) -> None:
        """Note what a step emitted for a sequence, and how much of its tree was verified."""
        if self.client is not None and result.accepted is not None:
            self.client.observe(
                result.sequence.id,
                # What follows a walk that was broken off says nothing about the draft.
                num_verified=(
                    0 if result.accepted.is_broken_off or result.tree.is_own else len(result.tree)
                ),
                successors=result.successors,
            )

    def ask(self, running: Sequences[Sequence]) -> None:
        """Tell the drafter what was emitted and ask for the next trees, where that may pay."""
        if self.client is None:
            return
        due: list[int] = []
        max_nodes = {
            sequence.id: sequence.request.speculation.max_nodes
            for sequence in running
            if sequence.uses_drafts and sequence.num_output and sequence.num_left > 1
        }
        if max_nodes and self._may_draft(running):
            due = self._asking.due(max_nodes)
        self._has_asked = bool(due)
        if due or self._has_closed:
            self._has_closed = False
            self.client.request({sequence_id: max_nodes[sequence_id] for sequence_id in due})

    async def wait(self) -> float:
        """Wait for the trees that were asked for; return for how many seconds."""
        if self.client is None:
            return 0.0
        started = time.perf_counter()
        await self.client.wait(min(DRAFT_SHARE * self._curve.plain_s, MAX_DRAFT_WAIT_S))
        return time.perf_counter() - started

    def learn(self, step: StepResult, stats: StepStats) -> None:
        """Compare what was promised with what a step brought, and with its time."""
        if stats.is_drafting:
            self._learn_use(step)
        # Steps that neither asked the drafter nor verified anything are plain ones.
        is_drafted = stats.is_drafting and (self._has_asked or stats.num_draft_nodes > 0)
        # Steps with nodes of our own and none of the drafter's compare with nothing.
        has_own = any(result.tree and result.tree.is_own for result in step.results)
        if not stats.num_prompt_rows and (is_drafted or not has_own):
            self.controller.record(
                num_sequences=stats.num_decoding,
                num_emitted=stats.num_emitted,
                seconds=stats.step_s,
                drafted=is_drafted,
            )
        elif stats.num_decoding and stats.is_drafting:
            self.controller.record_saved(saved_beside_prompts(stats, self._curve))
        elif stats.num_decoding:  # prompts that keep coming must not keep drafting off
            self.controller.rest()

    def _may_draft(self, running: Sequences[Sequence]) -> bool:
        if self.client is None or not self.controller.is_on:
            return False
        # Steps that read prompts beside decoding compare with nothing: no plain ones are due.
        reads_prompts = any(not s.num_output for s in running)
        return reads_prompts or self.controller.allows_drafts

    def _learn_use(self, step: StepResult) -> None:
        for result in step.results:
            sequence, accepted = result.sequence, result.accepted
            # What follows a walk that was broken off says nothing about the draft.
            if accepted is None or accepted.is_broken_off or result.tree.is_own:
                continue
            self._asking.note(sequence.id, was_useful=len(result.tree) > 0)
            if sequence.has_free_drafts:
                promised = sum(result.tree.probabilities)
                self.controller.trust.record(sequence.namespace, promised, len(accepted.path))


def saved_beside_prompts(stats: StepStats, curve: StepCurve) -> float:
    """Plain steps' worth of time that the drafts of a step with prompt rows saved.

    No two such steps are alike, so what the drafted rows added comes from the curve; what they
    brought was counted. Prompt rows would have been read with or without them.
    """
    num_rows = stats.num_decoding + stats.num_prompt_rows
    rows = np.array([stats.num_decoding, num_rows, num_rows + stats.num_draft_nodes])
    plain_s, undrafted_s, drafted_s = curve.seconds(rows).tolist()
    taken: float = (drafted_s - undrafted_s) / plain_s
    return stats.num_emitted / stats.num_decoding - 1.0 - taken
