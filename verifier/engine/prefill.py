"""Which rows of prompts a step reads beside those that decode."""

from verifier.cache.chain_slots import MARK_EVERY
from verifier.cache.prefix_cache import MIN_REUSED
from verifier.engine.sequence import Sequence
from verifier.engine.step import Drafts, Work
from verifier.model.batch import prompt_segment, scored_segment
from verifier.model.model import TargetModel, VerificationMode

# Prompt rows of one pass, where the settings name none: whoever comes during a pass waits for it.
CPU_PREFILL_ROWS, GPU_PREFILL_ROWS = 64, 512
ALONE_ROWS = 256  # at least, while nobody else is there
# Rows of a prompt whose logits are all wanted: each takes a float for each token that there is.
SCORED_ROWS = 64
# What the oldest prompt gets at least, as a share of them and beyond them if need be, when shorter
# ones go before it: a short prompt that fits into one pass must not take two.
OLDEST_SHARE = 0.25


class Prefill:
    """Decides how much of each prompt comes next. Keeps no state of its own."""

    def __init__(self, model: TargetModel, prefill_rows: int) -> None:
        self._model = model
        on_cpu = model.device.type == "cpu"
        default = CPU_PREFILL_ROWS if on_cpu else GPU_PREFILL_ROWS
        self._prefill_rows = prefill_rows or default
        self._alone_rows = prefill_rows or max(default, ALONE_ROWS)

    def works(self, prompts: list[Sequence], drafts: Drafts, *, is_alone: bool) -> list[Work]:
        """The shortest rest first; the oldest prompt gets its share in any case."""
        works: list[Work] = []
        left = self._alone_rows if is_alone else self._prefill_rows
        share = max(int(OLDEST_SHARE * left), 1)
        for sequence in sorted(prompts, key=self._num_unread):
            room = max(left, share) if sequence is prompts[0] else left
            if room > 0:
                works.append(self._work(sequence, room, drafts))
                left -= works[-1].segment.num_rows
        return works

    def _num_unread(self, sequence: Sequence) -> int:
        return sequence.num_known - self._model.slots.length(sequence.slot)

    def _work(self, sequence: Sequence, room: int, drafts: Drafts) -> Work:
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
