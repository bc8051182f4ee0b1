"""One sequence's choices, one at a time: processors in Hugging Face's order, then best or draw.

Choices that do not depend on the ones before them are made in advance (`choices.py`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.constraints.grammar import ConstraintMatcher, MatchError
from verifier.sampling.draws import Draw, draw_tokens, uniforms
from verifier.sampling.params import SamplingError, SamplingParams, UnfulfillableError
from verifier.sampling.ranking import rank
from verifier.sampling.token_counts import TokenCounts

BANNED = -100.0
NUM_UNIFORMS = 64  # are made together


class Sampler:
    """The choices of one sequence. Owns its token counts, its output position and its matcher."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: tuple[int, ...],
        *,
        ending_ids: frozenset[int] = frozenset(),
        min_tokens: int = 0,
        matcher: ConstraintMatcher | None = None,
    ) -> None:
        self.params = params
        self.is_greedy = params.is_greedy
        self.position = 0  # in the output, of the next token
        self._counts = TokenCounts(prompt_token_ids if params.repetition_penalty != 1.0 else ())
        self._ending_ids = sorted(ending_ids)
        self._min_tokens = min_tokens
        self.grammar_state = matcher  # the place in a constrained output
        self._looks_back = params.has_processors or matcher is not None
        # Whether what comes next does not depend on the output so far.
        self.is_free = not (self._looks_back or self._must_go_on)
        self._uniforms: NDArray[np.float64] = np.empty(0)
        self._first_uniform = 0

    def choose(self, logits: Tensor, row: int = 0, *, best: int | None = None) -> int:
        """Pick the token at the current position from a row of raw logits [rows, vocabulary].

        `best`: the token with the largest of the row's logits, where it is known and a number.
        """
        takes_best = self.is_greedy and not (self.params.has_processors or self._must_go_on)
        if takes_best and best is not None and self._allows(best):
            return best
        scores = self._processed(logits[row])[None]
        if self.is_greedy:
            ranking = rank(scores, 1)
            check(float(ranking.logits[0]))
            return int(ranking.best[0])
        [drawn] = draw_tokens(scores, [Draw(0, self.params, self.uniform(self.position))])
        check(drawn.best)
        return drawn.token_id

    def push(self, token_id: int) -> None:
        """Move on past an emitted token."""
        if self.params.has_processors:  # nobody else looks at counts
            self._counts.push(token_id)
        self.position += 1
        self.is_free = not (self._looks_back or self._must_go_on)
        if self.grammar_state is not None:
            with _matching():
                self.grammar_state.push(token_id)

    def uniform(self, position: int) -> float:
        """The random number of an output position, in [0, 1)."""
        index = position - self._first_uniform
        if not 0 <= index < len(self._uniforms):
            self._uniforms = uniforms(self.params.seed, position, NUM_UNIFORMS)
            self._first_uniform, index = position, 0
        return float(self._uniforms[index])

    @property
    def _must_go_on(self) -> bool:
        return self.position < self._min_tokens and bool(self._ending_ids)

    def _allows(self, token_id: int) -> bool:
        return self.grammar_state is None or self.grammar_state.allows(token_id)

    def _processed(self, logits: Tensor) -> Tensor:
        """Bias, penalties and bans, on a copy where anything changes."""
        if self.is_free:
            return logits
        scores = logits.float().clone()
        if self.params.logit_bias:
            ids, biases = zip(*self.params.logit_bias, strict=True)
            # -100 bans outright, so that no logit is large enough to bring the token back.
            values = [-math.inf if bias <= BANNED else bias for bias in biases]
            scores[_tensor(ids, scores)] += _tensor(values, scores)
        if self.params.has_processors:
            self._penalize(scores)
        if self.grammar_state is not None:
            self._constrain(scores, self.grammar_state)
        elif self._must_go_on:
            scores[_tensor(self._ending_ids, scores)] = -math.inf
        return scores

    def _constrain(self, scores: Tensor, matcher: ConstraintMatcher) -> None:
        """Ban what the constraint forbids; it ends the output before min_tokens if it must."""
        with _matching():
            allowed = matcher.allowed(len(scores))
        if self._must_go_on:
            goes_on = allowed.copy()
            goes_on[self._ending_ids] = False
            allowed = goes_on if goes_on.any() else allowed
        scores[_tensor(~allowed, scores)] = -math.inf

    def _penalize(self, scores: Tensor) -> None:
        p = self.params
        if p.repetition_penalty != 1.0 and len(self._counts):
            ids = _tensor(self._counts.ids, scores)
            seen = scores[ids]
            scores[ids] = torch.where(
                seen < 0, seen * p.repetition_penalty, seen / p.repetition_penalty
            )
        if p.has_output_penalties and len(self._counts):
            ids = _tensor(self._counts.ids, scores)
            counts = _tensor(self._counts.in_output, scores)
            scores[ids] -= counts * p.frequency_penalty + (counts > 0) * p.presence_penalty


def check(best: float) -> None:
    """Raise SamplingError where the best of the scores allows no choice."""
    if best == -math.inf:
        problem = "no token can be chosen: the best of the processed logits is -inf"
        raise UnfulfillableError("sampling.logit_bias", problem)
    if not math.isfinite(best):
        raise SamplingError(f"no token can be chosen: the best of the processed logits is {best}")


@contextmanager
def _matching() -> Iterator[None]:
    """A constraint that cannot be followed leaves no choice."""
    try:
        yield
    except MatchError as error:
        raise UnfulfillableError("constraint", str(error)) from error


def _tensor(values: object, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(values)
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(like.device, dtype)
