"""The choices of a step: for all its sequences at once, as far as they do not hang on one another.

The best token after each row is known from the ranking, and a draw depends on the row, the seed and
the position alone. Only a sequence with penalties, a constraint or a length that it must reach
looks at what it has chosen before, and is asked token by token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.sampling.draws import Draw, draw_tokens
from verifier.sampling.params import SamplingError
from verifier.sampling.ranking import Ranking
from verifier.sampling.sampler import Sampler

Place = tuple[int, int]  # a chooser, and a row of its own


@dataclass(slots=True)
class Chooser:
    """A sequence that chooses, and its rows of the logits."""

    sampler: Sampler
    start: int
    parents: Sequence[int]  # of the nodes of its tree: row 0 is the root's, row 1 + n node n's


class Choices:
    """What some sequences say after rows of a pass: one level of their trees after the other."""

    def __init__(self, choosers: Sequence[Chooser], logits: Tensor, ranking: Ranking) -> None:
        self.errors: dict[int, SamplingError] = {}  # by chooser
        self._choosers, self._logits = choosers, logits
        self._level = 0
        self._best: list[int | None] = ranking.best.tolist()
        for row in np.flatnonzero(~np.isfinite(ranking.logits)):
            self._best[row] = None
        self._known = self._best  # by row of the logits; None: to be drawn, or asked for
        bound = [i for i, chooser in enumerate(choosers) if not chooser.sampler.is_free]
        self._bound = frozenset(bound)
        self._drawn = frozenset(
            i for i, c in enumerate(choosers) if i not in bound and not c.sampler.params.is_greedy
        )
        if self._bound or self._drawn:
            self._known = self._best.copy()
            for i in self._bound | self._drawn:
                chooser = choosers[i]
                count = 1 + len(chooser.parents)
                self._known[chooser.start : chooser.start + count] = [None] * count
        if draws_in_advance(logits.device):
            self._draw(p for i in sorted(self._drawn) for p in _all_places(i, choosers[i].parents))

    def __call__(self, places: list[Place]) -> list[int | None]:
        """The tokens after all places of the next level; None, and an error, where none can be."""
        if self._drawn:
            self._draw((i, row, self._level) for i, row in places if i in self._drawn)
        self._level += 1
        known = [self._known[self._choosers[i].start + row] for i, row in places]
        if None not in known:
            return known
        return [
            self._ask(*place) if token_id is None else token_id
            for place, token_id in zip(places, known, strict=True)
        ]

    def end(self, index: int, num_chosen: int) -> None:
        """Move a chooser on past what was chosen."""
        if index not in self._bound:
            self._choosers[index].sampler.position += num_chosen

    def _draw(self, places: Iterable[tuple[int, int, int]]) -> None:
        """Draw what is not known yet, at places with their levels."""
        draws = []
        for index, own, level in places:
            chooser = self._choosers[index]
            sampler, row = chooser.sampler, chooser.start + own
            if self._known[row] is None:
                draws.append(Draw(row, sampler.params, sampler.uniform(sampler.position + level)))
        for draw, drawn in zip(draws, draw_tokens(self._logits, draws), strict=True):
            self._known[draw.row] = drawn.token_id if np.isfinite(drawn.best) else None

    def _ask(self, index: int, own: int) -> int | None:
        """Let a sequence choose by itself, and move on."""
        sampler, row = self._choosers[index].sampler, self._choosers[index].start + own
        try:
            token_id = sampler.choose(self._logits, row, best=self._best[row])
            if index in self._bound:
                sampler.push(token_id)
        except SamplingError as error:
            self.errors[index] = error
            return None
        return token_id


def draws_in_advance(device: torch.device) -> bool:
    """Whether all draws of a pass take less time than a wait for each level's."""
    return device.type != "cpu"


def _all_places(index: int, parents: Sequence[int]) -> list[tuple[int, int, int]]:
    """Every row of a tree, with its level."""
    levels = [0]
    for parent in parents:
        levels.append(levels[parent + 1] + 1)
    return [(index, row, level) for row, level in enumerate(levels)]
