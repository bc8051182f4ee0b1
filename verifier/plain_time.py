"""What steps would have taken without drafts, by the measured step times."""

from collections.abc import Sequence

import numpy as np

from verifier.budget import StepCurve
from verifier.sequence import PlainStep
from verifier.step import Work
from verifier.step_stats import StepStats, is_decoding

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
