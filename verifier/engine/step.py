"""One step: what it runs, and the running of it.

`Planner` decides the rows on the event loop; `run_step` is the part on tensors (forward, choose
along each tree, commit) and runs in the worker thread.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.cache.chain_slots import MARK_EVERY
from verifier.cache.prefix_cache import MIN_REUSED
from verifier.engine.events import PromptRun
from verifier.engine.sequence import Sequence
from verifier.model.batch import Segment, draft_segment, prompt_segment, scored_segment
from verifier.model.model import TargetModel, VerificationMode
from verifier.sampling.params import SamplingError
from verifier.sampling.ranking import (
    Best,
    Ranking,
    TokenLogprobs,
    logprobs,
    prompt_logprobs,
)
from verifier.sampling.sampler import Sampler
from verifier.speculation.tree import EMPTY_TREE, Accepted, DraftTree, accept

SUCCESSORS_PER_TOKEN = 8
# Prompt rows of one pass, where the settings name none: whoever comes during a pass waits for it.
CPU_PREFILL_ROWS, GPU_PREFILL_ROWS = 64, 512
ALONE_ROWS = 256  # at least, while nobody else is there
# Rows of a prompt whose logits are all wanted: each takes a float for each token that there is.
SCORED_ROWS = 64
NOTHING = Accepted((), ())
# What the oldest prompt gets at least, as a share of them and beyond them if need be, when shorter
# ones go before it: a short prompt that fits into one pass must not take two.
OLDEST_SHARE = 0.25


class PassFailed(RuntimeError):
    """A pass failed before anything was chosen from it: its sequences stand where they stood."""


class DeviceLost(RuntimeError):
    """The device answers nothing any more, whatever is asked of it."""


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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Result:
    """What a step found for one sequence; nothing is accepted in the middle of a prompt."""

    sequence: Sequence
    tree: DraftTree
    accepted: Accepted | None
    successors: list[list[int]]
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: SamplingError | None = None
    scored: PromptRun | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's results and how long its forward pass took."""

    results: list[Result]
    num_rows: int  # pending ones included
    forward_s: float


@torch.inference_mode()
def run_step(model: TargetModel, works: list[Work]) -> StepResult:
    """Run one forward pass over all works and settle each."""
    num_rows = sum(w.segment.num_rows + model.slots.num_pending(w.segment.slot) for w in works)
    started = time.perf_counter()
    logits, ranking = _run_pass(model, works)
    forward_s = time.perf_counter() - started
    results, start = [], 0
    for work in works:
        end = start + work.segment.num_logit_rows
        results.append(_settle(model, work, logits[start:end], ranking[start:end]))
        start = end
    return StepResult(results, num_rows, forward_s)


def _run_pass(model: TargetModel, works: list[Work]) -> tuple[Tensor, Ranking]:
    try:
        logits = model.forward([work.segment for work in works])
        return logits, model.rank(logits, SUCCESSORS_PER_TOKEN)
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        raise PassFailed(str(error)) from error


def _settle(model: TargetModel, work: Work, logits: Tensor, ranking: Ranking) -> Result:
    """Accept what the target agrees with and keep its rows."""
    sequence, segment = work.sequence, work.segment
    tree = work.tree
    scored = _score(work, logits) if segment.is_scored else None
    if work.is_inside_prompt:
        model.commit(segment.slot, list(range(segment.num_rows)))
        return Result(sequence, tree, None, [], scored=scored)
    if segment.is_scored:
        logits, ranking = logits[-1:], ranking[-1:]
    try:
        accepted = _accept(sequence, tree, logits, ranking)
    except SamplingError as error:
        return Result(sequence, tree, None, [], error=error)
    rows = [0, *(node + 1 for node in accepted.path)]  # the last token's is the next root's
    kept = rows if segment.tree is not None else list(range(segment.num_rows))
    model.commit(segment.slot, kept)
    successors = [ranking.top[row] for row in rows] if work.wants_successors else []
    found = _logprobs(sequence, logits, rows, accepted)
    return Result(sequence, tree, accepted, successors, found, scored=scored)


def _accept(sequence: Sequence, tree: DraftTree, logits: Tensor, ranking: Ranking) -> Accepted:
    if not sequence.request.stopping.max_tokens:  # only the prompt was to be read
        return NOTHING
    return accept(tree, lambda row: _choose(sequence.sampler, logits[row], ranking.best[row]))


def _score(work: Work, logits: Tensor) -> PromptRun:
    """How likely the tokens were that follow the rows of a prompt; the first has no row before."""
    sequence, segment = work.sequence, work.segment
    first, end = segment.kv_len + 1, min(segment.kv_span + 1, sequence.num_prompt)
    following = tuple(sequence.token_ids[first:end])
    num_top = sequence.request.num_prompt_logprobs or 0
    found = prompt_logprobs(logits[: len(following)], following, num_top)
    if segment.kv_len == 0:
        return PromptRun(0, (sequence.token_ids[0], *following), found)
    return PromptRun(first, following, found)


def _choose(sampler: Sampler, logits: Tensor, best: Best) -> int:
    token_id = sampler.choose(logits, best=best)
    sampler.push(token_id)
    return token_id


def _logprobs(
    sequence: Sequence, logits: Tensor, rows: list[int], accepted: Accepted
) -> tuple[TokenLogprobs, ...]:
    request = sequence.request
    if not request.logprobs:
        return ()
    return tuple(
        logprobs(logits[row], token_id, request.num_top_logprobs)
        for row, token_id in zip(rows, accepted.token_ids, strict=False)  # NOTHING has none
    )
