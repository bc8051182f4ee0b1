"""Choosing one token: processors in Hugging Face's order, then greedy or inverse-CDF sampling.

Randomness depends on (seed, output position) alone, so the same seed gives the same text whatever
was drafted. Choices are made along the accepted path, one at a time, so penalties see exactly the
tokens before them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.constraints.grammar import ConstraintMatcher, MatchError
from verifier.sampling.filters import Floats, cutoff, draw
from verifier.sampling.params import SamplingError, SamplingParams, UnfulfillableError
from verifier.sampling.ranking import Best, rank, top_ids
from verifier.sampling.token_counts import TokenCounts

# Filters look at this many best tokens first, then at more, then at all: sorting a large vocabulary
# takes longer than a pass of a small model.
SHORTLIST = 512
LONGER_LISTS = (8192, 65536)
BANNED = -100.0


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
        self._is_argmax = params.is_greedy and not params.has_processors
        self._counts = TokenCounts(prompt_token_ids if params.repetition_penalty != 1.0 else ())
        self._position = 0
        self._ending_ids = sorted(ending_ids)
        self._min_tokens = min_tokens
        self._matcher = matcher

    @property
    def grammar_state(self) -> ConstraintMatcher | None:
        """The place in a constrained output; None for one that is free."""
        return self._matcher

    @property
    def takes_argmax(self) -> bool:
        """The next choice is the largest raw logit, if a constraint allows it."""
        return self._is_argmax and not self._must_go_on

    def choose(self, logits: Tensor, *, best: Best | None = None) -> int:
        """Pick the token at the current position from raw logits [vocabulary]; one host sync.

        `best`: the largest of the logits, where it is known.
        """
        if self.takes_argmax:
            best = best or rank(logits[None], 1).best[0]
            _check(best.logit)
            if self._matcher is None or self._matcher.allows(best.token_id):
                return best.token_id
        scores = self._processed(logits)
        if self.params.is_greedy:
            return _argmax(scores)
        scores = scores.float() / self.params.temperature
        u = uniform(self.params.seed, self._position)
        if self.params.has_filters:
            return self._filtered_draw(scores, u)
        return _full_draw(scores, u)

    def push(self, token_id: int) -> None:
        """Move on past an emitted token."""
        if not self._is_argmax:  # which looks at no counts
            self._counts.push(token_id)
        self._position += 1
        if self._matcher is not None:
            with _matching():
                self._matcher.push(token_id)

    @property
    def _must_go_on(self) -> bool:
        return self._position < self._min_tokens and bool(self._ending_ids)

    def _processed(self, logits: Tensor) -> Tensor:
        """Bias, penalties and bans, on a copy where anything changes."""
        if not (self.params.has_processors or self._must_go_on or self._matcher):
            return logits
        scores = logits.float().clone()
        if self.params.logit_bias:
            ids, biases = zip(*self.params.logit_bias, strict=True)
            # -100 bans outright, so that no logit is large enough to bring the token back.
            values = [-math.inf if bias <= BANNED else bias for bias in biases]
            scores[_tensor(ids, scores)] += _tensor(values, scores)
        if self.params.has_processors:
            self._penalize(scores)
        if self._matcher is not None:
            self._constrain(scores, self._matcher)
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

    def _filtered_draw(self, scores: Tensor, u: float) -> int:
        """Draw among the surviving tokens in token-id order, in float64."""
        ids = top_ids(scores[None], SHORTLIST)[0]
        short = torch.stack([ids.double(), scores[ids].double()])
        # The sum over the whole vocabulary; after top-k only the kept tokens count.
        cuts = 0 < self.params.top_k < len(scores)
        total = short[:, :1] if cuts else torch.logsumexp(scores, 0).expand(2, 1)
        host = torch.cat([short, total.double()], 1).cpu().numpy()  # the one sync
        best = host[1, :-1]
        _check(best[0])
        found = cutoff(best, host[1, -1], self.params, is_all=len(best) == len(scores))
        if found is None:
            return self._wide_draw(scores, float(host[1, -1]), u)
        order = np.argsort(host[0, :-1])
        return _draw_within(host[0, order], best[order], found, u)

    def _wide_draw(self, scores: Tensor, log_total: float, u: float) -> int:
        """The same where the shortlist does not reach the cutoff; seldom."""
        host = scores.cpu().numpy()
        for size in (*LONGER_LISTS, len(host)):
            ids = _best_ids(host, size)
            listed = host[ids].astype(np.float64)
            best, is_all = np.sort(listed)[::-1], len(ids) == len(host)
            found = cutoff(best, log_total, self.params, is_all=is_all)
            if found is not None:
                return _draw_within(ids, listed, found, u)
        raise AssertionError("all scores hold every cutoff")


def _best_ids(scores: NDArray[Any], size: int) -> NDArray[Any]:
    """Ids of the best scores, rising; more than `size` where the last ones are tied."""
    if size >= len(scores):
        return np.arange(len(scores))
    place = len(scores) - size
    return np.flatnonzero(scores >= np.partition(scores, place)[place])


def _draw_within(ids: NDArray[Any], scores: Floats, lowest: float, u: float) -> int:
    """The draw among the tokens whose scores reach the cutoff `lowest`; `ids` rise."""
    kept = np.flatnonzero(scores >= lowest)
    return int(ids[kept[draw(scores[kept], u)]])


@contextmanager
def _matching() -> Iterator[None]:
    """A constraint that cannot be followed leaves no choice."""
    try:
        yield
    except MatchError as error:
        raise UnfulfillableError("constraint", str(error)) from error


def uniform(seed: int, position: int) -> float:
    """The random number of one output position, in [0, 1): a hash of both, by Philox."""
    bits = np.random.Philox(key=seed, counter=position).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def _argmax(scores: Tensor) -> int:
    best = rank(scores[None], 1).best[0]
    _check(best.logit)
    return best.token_id


def _full_draw(scores: Tensor, u: float) -> int:
    """Inverse CDF over the whole vocabulary, in token-id order, in float64."""
    best = scores.amax()
    cumulative = torch.cumsum(torch.exp(scores - best), 0, dtype=torch.float64)
    total = cumulative[-1]
    # Rounding must not let the target reach the total, past every token.
    target = torch.minimum(total * u, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True)
    token_id, score = torch.stack([index.double(), best.double()]).tolist()
    _check(score)
    return int(token_id)


def _check(best: float) -> None:
    if best == -math.inf:
        problem = "no token can be chosen: the best of the processed logits is -inf"
        raise UnfulfillableError("sampling.logit_bias", problem)
    if not math.isfinite(best):
        raise SamplingError(f"no token can be chosen: the best of the processed logits is {best}")


def _tensor(values: object, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(values)
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(like.device, dtype)
