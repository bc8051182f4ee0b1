"""What the next pass runs: decoding sequences with their drafts, then prompts."""

from verifier.engine.draft_coordinator import DraftCoordinator, Drafts
from verifier.engine.sequence import Sequence
from verifier.engine.step import Work
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.measurements import EXACT_ROWS, Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Exactness
from verifier.speculation.tree import EMPTY_TREE

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
        drafting: DraftCoordinator,
        measured: Measurements,
        prefill_rows: int,
    ) -> None:
        self._model = model
        self._drafting = drafting
        self._measured = measured
        on_cpu = model.device.type == "cpu"
        self._prefill_rows = prefill_rows or (CPU_PREFILL_ROWS if on_cpu else GPU_PREFILL_ROWS)

    def plan(self, running: list[Sequence], drafts: Drafts) -> list[Work]:
        """Every decoding sequence with its draft, then prompts in what room is left."""
        margin = self._measured.margin if drafts.trees else 0.0
        decoding = [self._decode_work(s, drafts, margin) for s in running if s.is_decoding]
        return decoding + self._prefill_works([s for s in running if not s.is_decoding])

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

    def _decode_work(self, sequence: Sequence, drafts: Drafts, margin: float) -> Work:
        is_guarded = sequence.request.speculation.exactness is Exactness.GUARDED
        is_padded = sequence.is_exact and self._model.form is not VerificationMode.PLAIN
        tree = drafts.tree(sequence)
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
            wants_successors=drafts.is_drafting and self._drafting.wants_successors(sequence),
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
            wants_successors=self._drafting.wants_successors(sequence),
            margin=0.0,
            is_alone=sequence.is_exact,
        )
