"""The one owner of drafting: which trees a step verifies, what is asked next, and what is learned.

Its parts: a source brings trees, the controller says whether drafting pays, the back-off says which
sequences to ask about, the budget says how many nodes are worth their rows. Without a source only
constraints draft.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Sequences

import numpy as np

from verifier.engine.counters import StepStats, saved_beside_prompts
from verifier.engine.sequence import Sequence
from verifier.engine.step import Drafts, Result, StepResult
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Mode
from verifier.speculation.budget import Offer, choose_apart, choose_nodes
from verifier.speculation.controller import Controller, DraftBackoff
from verifier.speculation.draft_source import DraftSource
from verifier.speculation.grammar_draft import grammar_draft, merged
from verifier.speculation.renewal import Renewals
from verifier.speculation.tree import EMPTY_TREE, DraftTree, best_chain, limit_depth, prefix

# A draft may take this share of a plain step before the step goes on without it.
DRAFT_SHARE = 0.25
MAX_DRAFT_WAIT_S = 0.02


class DraftCoordinator:
    """One engine's drafting. Used by its thread, but for start and stop."""

    def __init__(
        self, client: DraftSource | None, model: TargetModel, measured: Measurements
    ) -> None:
        self.client = client if model.form is not VerificationMode.PLAIN else None
        self.controller = Controller(measured.curve.plain_units())
        self._model = model
        self._measured = measured
        self._backoff = DraftBackoff()
        is_chain = model.form is VerificationMode.CHAIN
        self._renewals = Renewals(measured.curve) if is_chain else None
        self._has_asked = False  # after the last step

    @property
    def is_connected(self) -> bool:
        """Whether drafts can come."""
        return self.client is not None and self.client.is_connected

    def start(self, wake: Callable[[], object]) -> None:
        """Connect in the background; `wake` is called when there may be more to tell a drafter."""
        if self.client is not None:
            self.client.start(wake)

    async def stop(self) -> None:
        """Close the stream."""
        if self.client is not None:
            await self.client.stop()

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
        self._backoff.open(sequence.id)
        self.client.request({})

    def close(self, sequence: Sequence, *, learn: bool) -> None:
        """Let go of a sequence; the drafter is told with the next request."""
        if self._renewals is not None:
            self._renewals.forget(sequence.id)
        if self.client is not None:
            self.client.close(sequence.id, learn=learn)
            self._backoff.forget(sequence.id)

    def drafts(self, running: Sequences[Sequence]) -> Drafts:
        """Wait for the trees that were asked for, and cut them to what pays."""
        decoding = [sequence for sequence in running if sequence.is_decoding]
        may_draft = self._may_draft(reads_prompts=len(decoding) < len(running))
        # The step is judged by what drafts bring, though it may have none.
        is_drafting = may_draft and any(sequence.uses_drafts for sequence in decoding)
        # A plain step is due for drafting to be compared with.
        if self.client is not None and self.controller.is_on and not may_draft:
            return Drafts({}, is_drafting, 0.0, self.is_connected)
        wait_s = self._wait() if is_drafting else 0.0
        drafted = [sequence for sequence in decoding if self._may_verify(sequence)]
        trees = [self._tree(sequence, uses_drafter=is_drafting) for sequence in drafted]
        counts = self._budget(drafted, trees, len(decoding), uses_trust=is_drafting)
        counts = [
            0 if n and self._must_renew(s, t, n) else n
            for s, t, n in zip(drafted, trees, counts, strict=True)
        ]
        cuts = {s.id: prefix(t, n) for s, t, n in zip(drafted, trees, counts, strict=True) if n}
        return Drafts(cuts, is_drafting, wait_s, self.is_connected)

    def observe(self, result: Result) -> None:
        """Note what a step emitted for a sequence, and how much of its tree was verified."""
        if self.client is not None and result.accepted is not None and result.accepted.token_ids:
            self.client.observe(
                result.sequence.id,
                num_verified=0 if result.tree.is_own else len(result.tree),
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
            if sequence.uses_drafts and sequence.is_decoding and sequence.num_left > 1
        }
        if max_nodes and self._may_draft(
            reads_prompts=not all(sequence.is_decoding for sequence in running)
        ):
            due = self._backoff.due(max_nodes)
        self._has_asked = bool(due)
        if due or self.client.has_news:
            self.client.request({sequence_id: max_nodes[sequence_id] for sequence_id in due})

    def rest(self) -> None:
        """Tell the drafter about those that have ended; nobody is left to ask for."""
        if self.client is not None and self.client.has_news:
            self.client.request({})

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
            self.controller.record_saved(saved_beside_prompts(stats, self._measured.curve))
        elif stats.num_decoding:  # prompts that keep coming must not keep drafting off
            self.controller.rest()

    def _may_draft(self, *, reads_prompts: bool) -> bool:
        if self.client is None or not self.controller.is_on:
            return False
        # Steps that read prompts beside decoding compare with nothing: no plain ones are due.
        return reads_prompts or self.controller.allows_drafts

    def _wait(self) -> float:
        """Wait for the trees that were asked for; return for how many seconds."""
        assert self.client is not None, "nobody was asked"
        started = time.perf_counter()
        self.client.wait(min(DRAFT_SHARE * self._measured.curve.plain_s, MAX_DRAFT_WAIT_S))
        return time.perf_counter() - started

    def _may_verify(self, sequence: Sequence) -> bool:
        return sequence.uses_drafts and self._model.form is not VerificationMode.PLAIN

    def _tree(self, sequence: Sequence, *, uses_drafter: bool) -> DraftTree:
        """The sequence's tree in the shape it asked for, no deeper than it may still emit."""
        speculation = sequence.request.speculation
        # The step's own next token takes one place of what is left.
        max_depth = min(speculation.max_depth, sequence.num_left - 1)
        tree = EMPTY_TREE
        if self.client is not None and uses_drafter:
            tree = limit_depth(self.client.tree(sequence.id), max_depth)
        state = sequence.sampler.grammar_state
        if state is not None:
            implied = grammar_draft(state, speculation.max_nodes, max_depth)
            tree = merged(implied, tree) if implied else tree
        if speculation.mode is Mode.CHAIN or self._model.form is VerificationMode.CHAIN:
            return best_chain(tree, speculation.max_nodes)
        return prefix(tree, speculation.max_nodes)

    def _budget(
        self,
        drafted: Sequences[Sequence],
        trees: Sequences[DraftTree],
        num_decoding: int,
        *,
        uses_trust: bool,
    ) -> list[int]:
        """How many nodes of each tree to verify, in a step with so many decoding sequences."""
        counts = [len(tree) for tree in trees]
        free = [i for i, s in enumerate(drafted) if s.has_free_drafts and counts[i]]
        if not free:
            return counts
        offers = [self._offer(drafted[i], trees[i], uses_trust=uses_trust) for i in free]
        if self._model.form is not VerificationMode.PACKED:
            chosen = self._budget_apart([drafted[i] for i in free], offers, num_decoding)
        else:
            fixed = num_decoding + sum(counts) - sum(counts[i] for i in free)
            chosen = choose_nodes(self._measured.curve, offers, num_decoding, fixed)
        for i, count in zip(free, chosen, strict=True):
            counts[i] = count
        return counts

    def _budget_apart(
        self, drafted: Sequences[Sequence], offers: Sequences[Offer], num_decoding: int
    ) -> list[int]:
        """The same where a sequence that verifies a draft has a pass of its own."""
        curve = self._measured.curve
        rows = [1 + self._model.slots.num_pending(sequence.slot) for sequence in drafted]
        counts = [
            choose_nodes(curve, [offer], 1, own)[0] for offer, own in zip(offers, rows, strict=True)
        ]
        if not self._model.joins_chains or num_decoding == 1:
            return counts
        expected = [
            float(offer.probabilities[:count].sum())
            for offer, count in zip(offers, counts, strict=True)
        ]
        others = num_decoding - len(drafted)  # draft nothing, and run a row at least
        alone = choose_apart(
            curve, expected + [0.0] * others, counts + [0] * others, rows + [1] * others
        )
        return [count if index in alone else 0 for index, count in enumerate(counts)]

    def _must_renew(self, sequence: Sequence, tree: DraftTree, num_nodes: int) -> bool:
        """Whether the sequence's next pass renews its checkpoint instead of verifying a draft."""
        if self._renewals is None:
            return False
        num_pending = self._model.slots.num_pending(sequence.slot)
        expected = sum(tree.probabilities[:num_nodes])
        return self._renewals.is_due(sequence.id, num_pending, num_nodes, expected)

    def _offer(self, sequence: Sequence, tree: DraftTree, *, uses_trust: bool) -> Offer:
        """A tree as the budget sees it. What a constraint implies needs no trust."""
        trust = self.controller.trust.of(sequence.namespace) if uses_trust else 1.0
        probabilities = (1.0 if tree.is_own else trust) * np.array(tree.probabilities)
        return Offer(probabilities, self._model.slots.length(sequence.slot))

    def _learn_use(self, step: StepResult) -> None:
        for result in step.results:
            sequence, accepted = result.sequence, result.accepted
            if accepted is None or result.tree.is_own:
                continue
            self._backoff.note(sequence.id, was_useful=len(result.tree) > 0)
            if sequence.has_free_drafts:
                promised = sum(result.tree.probabilities)
                self.controller.trust.record(sequence.namespace, promised, len(accepted.path))
