"""What one step did and how long it took, for the controller and for whoever counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.engine.sequence import PlainStep
from verifier.engine.step import StepResult, Work
from verifier.speculation.budget import StepCurve


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counts and seconds of one step."""

    num_decoding: int  # sequences past their prompt
    num_prompt_rows: int
    num_draft_nodes: int  # drafted tokens verified
    num_expected: float  # of them to be accepted: the sum of their calibrated probabilities
    num_accepted: int
    num_emitted: int  # tokens of decoding sequences
    is_drafting: bool  # drafts were asked for; perhaps none was worth verifying
    step_s: float  # from the end of the step before, waiting for drafts included
    forward_s: float
    draft_wait_s: float

    @classmethod
    def of(
        cls,
        works: list[Work],
        step: StepResult,
        *,
        num_emitted: int,
        is_drafting: bool,
        step_s: float,
        draft_wait_s: float,
    ) -> "StepStats":
        """Count a step's works and results."""
        num_decoding = sum(map(is_decoding, works))
        accepted = [result.accepted for result in step.results if result.accepted is not None]
        return cls(
            num_decoding=num_decoding,
            num_prompt_rows=sum(w.segment.num_rows for w in works if not is_decoding(w)),
            num_draft_nodes=sum(len(work.tree) for work in works),
            num_expected=sum(sum(work.tree.probabilities) for work in works),
            # Every decoding sequence emits one token more than it accepts, but for ends and
            # choices left open; neither may count more than was emitted.
            num_accepted=min(sum(len(a.path) for a in accepted), num_emitted),
            num_emitted=num_emitted,
            is_drafting=is_drafting,
            step_s=step_s,
            forward_s=step.forward_s,
            draft_wait_s=draft_wait_s,
        )


def is_decoding(work: Work) -> bool:
    """Whether the work is past its sequence's prompt."""
    return work.segment.tree is not None


MEMORY = 0.9  # what of the running overhead stays at each step


class PlainTime:
    """Prices steps; follows what the engine adds to a pass, which the curve does not hold."""

    def __init__(self, curve: StepCurve) -> None:
        self._curve = curve
        self._overhead_s = 0.0

    def of(self, works: Sequence[Work], forward_s: float) -> PlainStep:
        """Price the step of these works."""
        if not any(work.tree for work in works) or any(work.is_alone for work in works):
            # It was a plain pass, or one whose shape drafts do not change.
            return PlainStep(forward_s + self._overhead_s)
        decoding = [work.segment.num_rows for work in works if is_decoding(work)]
        rows = np.array([len(decoding), sum(decoding)])
        plain_s, drafted_s = self._curve.seconds(rows).tolist()
        has_prompts = len(decoding) < len(works)
        prompts_s = max(forward_s - drafted_s, 0.0) if has_prompts else 0.0
        return PlainStep(plain_s + self._overhead_s, prompts_s)

    def track(self, stats: StepStats) -> None:
        """Follow a step just measured."""
        overhead_s = max(stats.step_s - stats.forward_s - stats.draft_wait_s, 0.0)
        self._overhead_s += (1 - MEMORY) * (overhead_s - self._overhead_s)
