"""The choices of a step: in advance, as far as they do not depend on what is chosen before them.

The best token after each row is known from the ranking, and a draw depends on the row, the seed and
the position alone. Only a sequence with penalties, a constraint or a length that it must reach
looks at what it has chosen before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.sampling.draws import Draw, draw_tokens
from verifier.sampling.params import SamplingError
from verifier.sampling.ranking import Ranking
from verifier.sampling.sampler import Sampler


@dataclass(slots=True)
class Chooser:
    """A sequence that chooses, and its rows of the logits."""

    sampler: Sampler
    start: int
    parents: Sequence[int]  # of the nodes of its tree: row 0 is the root's, row 1 + n node n's
    error: SamplingError | None = None  # why nothing can be chosen


class Choices:
    """What the sequences of a step choose after their rows, each along one path of its tree."""

    def __init__(self, choosers: Sequence[Chooser], logits: Tensor, ranking: Ranking) -> None:
        self._logits = logits
        self._best: list[int | None] = ranking.best.tolist()
        scores = ranking.logits.tolist()
        if not math.isfinite(sum(scores)):
            for row, score in enumerate(scores):
                self._best[row] = self._best[row] if math.isfinite(score) else None
        drawing = [c for c in choosers if c.sampler.is_free and not c.sampler.is_greedy]
        self._drawn = self._draw(drawing) if drawing and draws_in_advance(logits.device) else {}

    def known(self, chooser: Chooser) -> list[int | None] | None:
        """The tokens after all of a sequence's rows; None where it has to be asked for each."""
        if not (chooser.sampler.is_free and chooser.sampler.is_greedy):
            return None
        own = self._best[chooser.start : chooser.start + 1 + len(chooser.parents)]
        return None if None in own else own

    def ask(self, chooser: Chooser, row: int) -> int | None:
        """The token after the next row of a sequence's path; None, and an error, without one."""
        row += chooser.start
        sampler = chooser.sampler
        try:
            token_id = self._drawn.get(row)
            if token_id is None:
                token_id = sampler.choose(self._logits, row, best=self._best[row])
            sampler.push(token_id)
        except SamplingError as error:
            chooser.error = error
            return None
        return token_id

    def _draw(self, choosers: list[Chooser]) -> dict[int, int]:
        """All that these may draw, by row of the logits, where the logits are numbers."""
        draws = [draw for chooser in choosers for draw in _draws(chooser)]
        found = zip(draws, draw_tokens(self._logits, draws), strict=True)
        return {draw.row: drawn.token_id for draw, drawn in found if math.isfinite(drawn.best)}


def draws_in_advance(device: torch.device) -> bool:
    """Whether the draws after all rows take less time than a wait for each that is needed."""
    return device.type != "cpu"


def _draws(chooser: Chooser) -> list[Draw]:
    sampler, levels = chooser.sampler, [0]
    for parent in chooser.parents:
        levels.append(levels[parent + 1] + 1)
    return [
        Draw(chooser.start + row, sampler.params, sampler.uniform(sampler.position + level))
        for row, level in enumerate(levels)
    ]
