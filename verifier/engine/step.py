"""One step: its works, the pass over them, and what it would have cost without drafts.

`run_step` is the part on tensors (forward, choose along each tree, commit); it runs in the worker
thread.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.engine.sequence import PlainStep, Sequence
from verifier.model.batch import Segment
from verifier.model.model import TargetModel
from verifier.sampling.params import SamplingError
from verifier.sampling.ranking import Best, Ranking, TokenLogprobs, logprobs, rank
from verifier.speculation.acceptance import Accepted, accept
from verifier.speculation.budget import StepCurve
from verifier.speculation.tree import DraftTree

SUCCESSORS_PER_TOKEN = 8
OVERHEAD_MEMORY = 0.9  # what of the running overhead stays at each step


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step."""

    sequence: Sequence
    segment: Segment
    tree: DraftTree  # the segment's own may be padded
    wants_successors: bool
    margin: float  # choices that logits so far off could change are left open; 0 leaves none
    is_alone: bool  # in a pass of its own, whose shape nobody else changes

    @property
    def is_decoding(self) -> bool:
        """Whether the work is past its sequence's prompt."""
        return self.segment.tree is not None


@dataclass(frozen=True, slots=True)
class Result:
    """What a step found for one sequence; nothing is accepted in the middle of a prompt."""

    sequence: Sequence
    tree: DraftTree
    accepted: Accepted | None
    successors: list[list[int]]
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: SamplingError | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's results and how long its forward pass took."""

    results: list[Result]
    num_rows: int
    forward_s: float


@torch.inference_mode()
def run_step(model: TargetModel, works: list[Work]) -> StepResult:
    """Run one forward pass over all works and settle each."""
    started = time.perf_counter()
    alone = [work for work in works if work.is_alone]
    together = [work for work in works if not work.is_alone]
    passes = [[work] for work in alone] + ([together] if together else [])
    logits = torch.cat([model.forward([work.segment for work in works]) for works in passes])
    works = alone + together
    ranking = rank(logits, SUCCESSORS_PER_TOKEN)
    forward_s = time.perf_counter() - started
    results, start = [], 0
    for work in works:
        end = start + work.segment.num_logit_rows
        results.append(_settle(model, work, logits[start:end], ranking[start:end]))
        start = end
    num_rows = sum(work.segment.num_rows for work in works)
    return StepResult(results, num_rows, forward_s)


def _settle(model: TargetModel, work: Work, logits: Tensor, ranking: Ranking) -> Result:
    """Accept what the target agrees with and keep its rows."""
    sequence, segment = work.sequence, work.segment
    tree = work.tree
    if not segment.needs_logits:
        model.commit(segment.slot, list(range(segment.num_rows)))
        return Result(sequence, tree, None, [])
    try:
        accepted = accept(tree, lambda row: _choose(work, logits[row], ranking.best[row]))
    except SamplingError as error:
        return Result(sequence, tree, None, [], error=error)
    # A row is kept once the token after it is known: the last token's row is the next root.
    rows = [0, *(node + 1 for node in accepted.path)][: len(accepted.token_ids)]
    kept = rows if segment.tree is not None else list(range(segment.num_rows))
    model.commit(segment.slot, kept)
    successors = [ranking.top[row] for row in rows] if work.wants_successors else []
    return Result(sequence, tree, accepted, successors, _logprobs(sequence, logits[rows], accepted))


def _choose(work: Work, logits: Tensor, best: Best) -> int | None:
    sampler = work.sequence.sampler
    token_id = sampler.choose(logits, best=best, margin=work.margin)
    if token_id is not None:
        sampler.push(token_id)
    return token_id


def _logprobs(sequence: Sequence, logits: Tensor, accepted: Accepted) -> tuple[TokenLogprobs, ...]:
    request = sequence.request
    if not request.logprobs:
        return ()
    return tuple(
        logprobs(row, token_id, request.num_top_logprobs)
        for row, token_id in zip(logits, accepted.token_ids, strict=True)
    )


class PlainTime:
    """Prices steps; follows what the engine adds to a pass, which the curve does not hold."""

    def __init__(self, curve: StepCurve) -> None:
        self._curve = curve
        self._overhead_s = 0.0

    def of(self, works: list[Work], forward_s: float) -> PlainStep:
        """Price the step of these works."""
        if not any(work.tree for work in works) or any(work.is_alone for work in works):
            # It was a plain pass, or one whose shape drafts do not change.
            return PlainStep(forward_s + self._overhead_s)
        decoding = [work.segment.num_rows for work in works if work.is_decoding]
        rows = np.array([len(decoding), sum(decoding)])
        plain_s, drafted_s = self._curve.seconds(rows).tolist()
        has_prompts = len(decoding) < len(works)
        prompts_s = max(forward_s - drafted_s, 0.0) if has_prompts else 0.0
        return PlainStep(plain_s + self._overhead_s, prompts_s)

    def track(self, overhead_s: float) -> None:
        """Follow what the engine added to a step just measured."""
        self._overhead_s += (1 - OVERHEAD_MEMORY) * (max(overhead_s, 0.0) - self._overhead_s)
