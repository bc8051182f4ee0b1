"""What the next pass runs: the drafts of decoding sequences, cut by the budget, and prompts."""

import numpy as np

from verifier.engine.sequence import Sequence
from verifier.engine.step import Work
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.measurements import EXACT_ROWS, Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Exactness, Mode
from verifier.speculation.budget import Offer, choose_nodes
from verifier.speculation.controller import Trust
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.grammar_draft import grammar_draft, merged
from verifier.speculation.tree import EMPTY_TREE, DraftTree, best_chain, limit_depth, prefix

# Exact sequences read prompts in runs of this many rows.
EXACT_PREFILL_ROWS = 256
# Prompt rows of one pass, where the settings name none: whoever comes during a pass waits for it.
CPU_PREFILL_ROWS, GPU_PREFILL_ROWS = 64, 512
# What the oldest prompt gets at least, as a share of them and beyond them if need be, when shorter
# ones go before it: a short prompt that fits into one pass must not take two.
OLDEST_SHARE = 0.25


class Planner:
    """Decides the rows of each pass. Keeps no state of its own."""

    def __init__(
        self,
        model: TargetModel,
        drafts: DraftClient | None,
        measured: Measurements,
        prefill_rows: int,
    ) -> None:
        self._model = model
        self._drafts = drafts
        self._measured = measured
        on_cpu = model.device.type == "cpu"
        self._prefill_rows = prefill_rows or (CPU_PREFILL_ROWS if on_cpu else GPU_PREFILL_ROWS)

    def plan(self, running: list[Sequence], trust: Trust | None, *, is_plain: bool) -> list[Work]:
        """Every decoding sequence's draft, then prompts in what room is left.

        `trust`: None while the drafter's trees are not used. `is_plain`: no drafts this time.
        """
        decoding = [sequence for sequence in running if self._is_decoding(sequence)]
        trees = [
            EMPTY_TREE if is_plain else self._draft(sequence, uses_drafter=trust is not None)
            for sequence in decoding
        ]
        works = self._decode_works(decoding, trees, trust)
        prompts = [sequence for sequence in running if not self._is_decoding(sequence)]
        return works + self._prefill_works(prompts)

    def _prefill_works(self, prompts: list[Sequence]) -> list[Work]:
        """The shortest rest first; the oldest prompt gets its share in any case."""
        works: list[Work] = []
        left, share = self._prefill_rows, max(int(OLDEST_SHARE * self._prefill_rows), 1)
        for sequence in sorted(prompts, key=self._num_unread):
            room = max(left, share) if sequence is prompts[0] else left
            if room > 0:
                works.append(self._prefill_work(sequence, room))
                left -= works[-1].segment.num_rows
        return works

    def _num_unread(self, sequence: Sequence) -> int:
        return sequence.num_prompt - self._model.slots.length(sequence.slot)

    def _is_decoding(self, sequence: Sequence) -> bool:
        return self._model.slots.length(sequence.slot) >= sequence.num_prompt

    def _decode_works(
        self, decoding: list[Sequence], trees: list[DraftTree], trust: Trust | None
    ) -> list[Work]:
        counts = self._cut(decoding, trees, trust)
        cuts = [prefix(tree, count) for tree, count in zip(trees, counts, strict=True)]
        margin = self._measured.margin if any(cuts) else 0.0
        return [
            self._decode_work(sequence, cut, margin, wants_successors=trust is not None)
            for sequence, cut in zip(decoding, cuts, strict=True)
        ]

    def _cut(
        self, decoding: list[Sequence], trees: list[DraftTree], trust: Trust | None
    ) -> list[int]:
        """How many nodes of each tree to verify."""
        counts = [len(tree) for tree in trees]
        free = [i for i, s in enumerate(decoding) if s.has_free_drafts and counts[i]]
        if not free:
            return counts
        offers = [
            Offer(
                _trust(trust, decoding[i], trees[i]) * np.array(trees[i].probabilities),
                self._model.slots.length(decoding[i].slot),
            )
            for i in free
        ]
        if self._model.form is VerificationMode.SINGLE:  # each sequence has a pass of its own
            chosen = [choose_nodes(self._measured.curve, [offer], 1, 1)[0] for offer in offers]
        else:
            num_rows = len(decoding) + sum(counts) - sum(counts[i] for i in free)
            chosen = choose_nodes(self._measured.curve, offers, len(decoding), num_rows)
        for i, count in zip(free, chosen, strict=True):
            counts[i] = count
        return counts

    def _decode_work(
        self, sequence: Sequence, tree: DraftTree, margin: float, *, wants_successors: bool
    ) -> Work:
        is_guarded = sequence.request.speculation.exactness is Exactness.GUARDED
        is_padded = sequence.is_exact and self._model.form is not VerificationMode.PLAIN
        return Work(
            sequence,
            draft_segment(
                sequence.slot,
                self._model.slots.length(sequence.slot),
                sequence.token_ids[-1],
                tree,
                num_rows=EXACT_ROWS if is_padded else 0,
                span=self._model.max_context if is_padded else 0,
            ),
            tree,
            wants_successors=wants_successors and self._wants_successors(sequence),
            margin=margin if is_guarded else 0.0,
            is_alone=sequence.is_exact,
        )

    def _prefill_work(self, sequence: Sequence, room: int) -> Work:
        kv_len = self._model.slots.length(sequence.slot)
        end = min(kv_len + (EXACT_PREFILL_ROWS if sequence.is_exact else room), sequence.num_prompt)
        if self._model.form is VerificationMode.PLAIN:
            end = sequence.num_prompt  # recurrent models take a prompt whole
        segment = prompt_segment(
            sequence.slot,
            kv_len,
            tuple(sequence.token_ids[kv_len:end]),
            is_last=end == sequence.num_prompt,
        )
        return Work(
            sequence,
            segment,
            EMPTY_TREE,
            wants_successors=self._wants_successors(sequence),
            margin=0.0,
            is_alone=sequence.is_exact,
        )

    def _draft(self, sequence: Sequence, *, uses_drafter: bool) -> DraftTree:
        """The sequence's tree in the shape it asked for, no deeper than it may still emit."""
        if not sequence.uses_drafts or self._model.form is VerificationMode.PLAIN:
            return EMPTY_TREE
        if sequence.is_exact and not self._measured.rows_agree:
            return EMPTY_TREE
        speculation = sequence.request.speculation
        # The step's own next token takes one place of what is left.
        max_depth = min(speculation.max_depth, sequence.num_left - 1)
        tree = EMPTY_TREE
        if self._drafts is not None and uses_drafter:
            tree = limit_depth(self._drafts.tree(sequence.id), max_depth)
        state = sequence.sampler.grammar_state
        if state is not None:
            implied = grammar_draft(state, speculation.max_nodes, max_depth)
            tree = merged(implied, tree) if implied else tree
        if sequence.is_exact:
            return best_chain(tree, min(speculation.max_nodes, EXACT_ROWS - 1))
        if speculation.mode is Mode.CHAIN:
            return best_chain(tree, speculation.max_nodes)
        return prefix(tree, speculation.max_nodes)

    def _wants_successors(self, sequence: Sequence) -> bool:
        return sequence.uses_drafts and self._drafts is not None and self._drafts.is_connected


def _trust(trust: Trust | None, sequence: Sequence, tree: DraftTree) -> float:
    """How far to believe a tree; what a grammar implies holds whatever the drafter is worth."""
    return 1.0 if trust is None or tree.is_own else trust.of(sequence.namespace)
