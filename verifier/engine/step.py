"""One step: what it runs, one pass over all of that, and what the pass says."""

import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.engine.events import PromptRun
from verifier.engine.sequence import Sequence
from verifier.model.batch import Segment, draft_segment
from verifier.model.model import TargetModel
from verifier.sampling.choices import Choices, Chooser
from verifier.sampling.params import SamplingError
from verifier.sampling.ranking import Ranking, TokenLogprobs, logprobs, prompt_logprobs
from verifier.speculation.tree import EMPTY_TREE, Accepted, DraftTree, accept

SUCCESSORS_PER_TOKEN = 8


def _nothing() -> None:
    """What else is done during a pass, where that is nothing."""


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


def decode_work(sequence: Sequence, kv_len: int, drafts: Drafts) -> Work:
    """A decoding sequence's part, of which so many rows are cached."""
    tree, wants_successors = drafts.tree(sequence), drafts.wants_successors(sequence)
    segment = draft_segment(sequence.slot, kv_len, sequence.token_ids[-1], tree)
    return Work(sequence, segment, wants_successors and drafts.is_drafting)


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Result:
    """What a step found for one sequence; nothing is accepted in the middle of a prompt."""

    sequence: Sequence
    tree: DraftTree
    accepted: Accepted | None = None
    successors: NDArray[np.int32] | None = None  # [tokens, ranks], where they are wanted
    logprobs: Sequences[TokenLogprobs] = ()
    error: SamplingError | None = None
    scored: PromptRun | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's results and how long its forward pass took."""

    results: list[Result]
    num_rows: int  # pending ones included
    forward_s: float


@torch.inference_mode()
def run_step(
    model: TargetModel, works: list[Work], meanwhile: Callable[[], None] = _nothing
) -> StepResult:
    """Run one forward pass over all works, accept what it agrees with, and keep those rows.

    `meanwhile` is called when others may use the interpreter beside the pass: a GPU is given its
    work before, a CPU has it done when the pass returns.
    """
    computes_here = model.device.type == "cpu"
    if computes_here:
        meanwhile()
    num_rows = sum(w.segment.num_rows + model.slots.num_pending(w.segment.slot) for w in works)
    started = time.perf_counter()
    logits, ranking = _run_pass(model, works, _nothing if computes_here else meanwhile)
    forward_s = time.perf_counter() - started
    results = [
        Result(work.sequence, work.tree, None if work.is_inside_prompt else Accepted([], []))
        for work in works
    ]
    ends = list(itertools.accumulate(work.segment.num_logit_rows for work in works))
    _score(works, results, ends, logits)
    _choose(works, results, ends, logits, ranking)
    for work, result in zip(works, results, strict=True):
        if result.error is None:
            model.slots.commit(work.segment.slot, _kept(work, result))
    return StepResult(results, num_rows, forward_s)


def _run_pass(
    model: TargetModel, works: list[Work], meanwhile: Callable[[], None]
) -> tuple[Tensor, Ranking]:
    try:
        logits = model.forward([work.segment for work in works])
        meanwhile()
        return logits, model.rank(logits, SUCCESSORS_PER_TOKEN)
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        raise PassFailed(str(error)) from error


def _score(works: list[Work], results: list[Result], ends: list[int], logits: Tensor) -> None:
    """Say how likely the tokens of scored prompts were, each after the row before it."""
    for work, result, end in zip(works, results, ends, strict=True):
        segment, sequence = work.segment, work.sequence
        if not segment.is_scored:
            continue
        first, last = segment.kv_len + 1, min(segment.kv_span + 1, sequence.num_prompt)
        following = tuple(sequence.token_ids[first:last])
        own = logits[end - segment.num_logit_rows :][: len(following)]
        found = prompt_logprobs(own, following, sequence.request.num_prompt_logprobs or 0)
        if segment.kv_len == 0:  # the first token has no row before it
            result.scored = PromptRun(0, (sequence.token_ids[0], *following), found)
        else:
            result.scored = PromptRun(first, following, found)


def _choose(
    works: list[Work], results: list[Result], ends: list[int], logits: Tensor, ranking: Ranking
) -> None:
    """Walk the trees by the target's own choices, and note what it says on the way."""
    choosing = [i for i, work in enumerate(works) if work.chooses]
    choosers = [
        Chooser(works[i].sequence.sampler, ends[i] - 1 - len(works[i].tree), works[i].tree.parents)
        for i in choosing
    ]
    choices = Choices(choosers, logits, ranking)
    rows: list[int] = []  # after which something was chosen
    for i, chooser in zip(choosing, choosers, strict=True):
        accepted = results[i].accepted = _walk(works[i].tree, chooser, choices)
        results[i].error = chooser.error
        if accepted is not None:
            rows += [chooser.start, *(chooser.start + 1 + node for node in accepted.path)]
    _look_around([(works[i], results[i]) for i in choosing], rows, logits, ranking)


def _walk(tree: DraftTree, chooser: Chooser, choices: Choices) -> Accepted | None:
    """The path that a sequence chooses; None where it cannot choose on."""
    known = choices.known(chooser)
    if known is None:
        accepted = accept(tree, partial(choices.ask, chooser))
    else:
        accepted = accept(tree, known.__getitem__)
        chooser.sampler.position += len(accepted.token_ids)
    return None if chooser.error else accepted


def _look_around(
    done: list[tuple[Work, Result]], rows: list[int], logits: Tensor, ranking: Ranking
) -> None:
    """Note what the model said besides, after the rows at which all tokens were chosen."""
    top, start = ranking.top[rows], 0
    for work, result in done:
        if result.accepted is None:
            continue
        token_ids, request = result.accepted.token_ids, work.sequence.request
        end = start + len(token_ids)
        if work.wants_successors:
            result.successors = top[start:end]
        if request.logprobs:
            own = rows[start:end]
            result.logprobs = logprobs(logits, own, token_ids, request.num_top_logprobs)
        start = end


def _kept(work: Work, result: Result) -> list[int]:
    """The rows of the work's segment that its sequence keeps; the last token's is yet to come."""
    if work.is_decoding and result.accepted is not None:
        return result.accepted.rows
    return list(range(work.segment.num_rows))
