"""What a step runs: every decoding sequence with its draft, then the next rows of prompts."""

from dataclasses import dataclass

from verifier.cache.chain_slots import MARK_EVERY
from verifier.cache.prefix_cache import MIN_REUSED
from verifier.engine.sequence import Sequence
from verifier.model.batch import Segment, draft_segment, prompt_segment, scored_segment
from verifier.model.model import TargetModel, VerificationMode
from verifier.speculation.tree import EMPTY_TREE, DraftTree

# Prompt rows of one pass, where the settings name none: whoever comes during a pass waits for it.
CPU_PREFILL_ROWS, GPU_PREFILL_ROWS = 64, 512
ALONE_ROWS = 256  # at least, while nobody else is there
# Rows of a prompt whose logits are all wanted: each takes a float for each token that there is.
SCORED_ROWS = 64
# What the oldest prompt gets at least, as a share of them and beyond them if need be, when shorter
# ones go before it: a short prompt that fits into one pass must not take two.
OLDEST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Drafts:
    """What the next step verifies."""

    trees: dict[int, DraftTree]  # by sequence id, cut by the budget
    is_drafting: bool  # the step is judged by what drafts bring, though it may have none
    wait_s: float
    has_drafter: bool  # which learns from the target's other likely tokens

    def tree(self, sequence: Sequence) -> DraftTree:
        """The sequence's tree; empty where it has none."""
        return self.trees.get(sequence.id, EMPTY_TREE)

    def wants_successors(self, sequence: Sequence) -> bool:
        """Whether the drafter is told the target's other likely tokens."""
        return self.has_drafter and sequence.uses_drafts


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Work:
    """One sequence's part of a step."""

    sequence: Sequence
    segment: Segment
    wants_successors: bool

    @property
    def tree(self) -> DraftTree:
        """The draft to verify; empty in a prompt."""
        return self.segment.tree or EMPTY_TREE

    @property
    def is_decoding(self) -> bool:
        """Whether the work is past its sequence's prompt."""
        return self.segment.tree is not None

    @property
    def is_inside_prompt(self) -> bool:
        """Whether some of the prompt is left to read after it."""
        return self.segment.tree is None and self.segment.kv_span < self.sequence.num_known

    @property
    def chooses(self) -> bool:
        """Whether tokens are chosen after its rows: not inside a prompt, nor if it is all."""
        return not self.is_inside_prompt and self.sequence.request.stopping.max_tokens > 0


class Planner:
    """Decides the rows of each pass. Keeps no state of its own."""

    def __init__(self, model: TargetModel, prefill_rows: int) -> None:
        self._model = model
        on_cpu = model.device.type == "cpu"
        default = CPU_PREFILL_ROWS if on_cpu else GPU_PREFILL_ROWS
        self._prefill_rows = prefill_rows or default
        self._alone_rows = prefill_rows or max(default, ALONE_ROWS)

    def plan(self, running: list[Sequence], drafts: Drafts) -> list[Work]:
        """Every decoding sequence with its draft, then prompts in what room is left."""
        decoding = [self._decode_work(s, drafts) for s in running if s.is_decoding]
        room = self._alone_rows if len(running) == 1 else self._prefill_rows
        prompts = [s for s in running if not s.is_decoding]
        return decoding + self._prefill_works(prompts, drafts, room)

    def _prefill_works(self, prompts: list[Sequence], drafts: Drafts, left: int) -> list[Work]:
        """The shortest rest first; the oldest prompt gets its share in any case."""
        works: list[Work] = []
        share = max(int(OLDEST_SHARE * left), 1)
        for sequence in sorted(prompts, key=self._num_unread):
            room = max(left, share) if sequence is prompts[0] else left
            if room > 0:
                works.append(self._prefill_work(sequence, room, drafts))
                left -= works[-1].segment.num_rows
        return works

    def _num_unread(self, sequence: Sequence) -> int:
        return sequence.num_known - self._model.slots.length(sequence.slot)

    def _decode_work(self, sequence: Sequence, drafts: Drafts) -> Work:
        segment = draft_segment(
            sequence.slot,
            self._model.slots.length(sequence.slot),
            sequence.token_ids[-1],
            drafts.tree(sequence),
        )
        wants_successors = drafts.is_drafting and drafts.wants_successors(sequence)
        return Work(sequence, segment, wants_successors)

    def _prefill_work(self, sequence: Sequence, room: int, drafts: Drafts) -> Work:
        kv_len = self._model.slots.length(sequence.slot)
        is_scored = sequence.is_scored and not sequence.num_output
        if is_scored:
            room = min(room, SCORED_ROWS)
        end, is_marked = min(kv_len + room, sequence.num_known), False
        if self._model.form is VerificationMode.PLAIN:
            end = sequence.num_known  # recurrent models take a prompt whole
        elif self._model.form is VerificationMode.CHAIN:
            end, is_marked = chain_run(kv_len, end, sequence.num_known)
        run = tuple(sequence.token_ids[kv_len:end])
        if is_scored:
            segment = scored_segment(sequence.slot, kv_len, run)
        else:
            is_last = end == sequence.num_known
            segment = prompt_segment(
                sequence.slot, kv_len, run, is_last=is_last, is_marked=is_marked
            )
        return Work(sequence, segment, drafts.wants_successors(sequence))


def chain_run(start: int, end: int, num_prompt: int) -> tuple[int, bool]:
    """Where a run of a prompt ends, and whether the state there is kept for other sequences.

    That is so at every `MARK_EVERY` tokens and before the last one, whose logits whoever begins
    the same must compute, too.
    """
    end = min(end, start - start % MARK_EVERY + MARK_EVERY)
    if end == num_prompt and end - start > MIN_REUSED:
        end -= 1
    return end, end % MARK_EVERY == 0 or end == num_prompt - 1
