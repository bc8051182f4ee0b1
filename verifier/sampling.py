"""Choosing one token: processors in Hugging Face's order, then greedy or inverse-CDF sampling.

Randomness depends on (seed, output position) alone, so the same seed gives the same text whatever
was drafted. Choices are made along the accepted path, one at a time, so penalties see exactly the
tokens before them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.filters import border, draw
from verifier.ranking import argmax_ids, top_ids
from verifier.token_counts import TokenCounts

# Filters look at this many best tokens first; wider nuclei fall back to a full sort.
SHORTLIST = 512
BANNED = -100.0
GREEDY_BELOW = 1e-5  # lower temperatures would overflow float32 logits


class SamplingError(RuntimeError):
    """The logits allow no choice: not finite, or every token is banned."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; the defaults are greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """The most probable token wins, after penalties and bias."""
        return self.temperature < GREEDY_BELOW

    @property
    def has_output_penalties(self) -> bool:
        """Tokens of the output become less or more likely."""
        return bool(self.frequency_penalty or self.presence_penalty)

    @property
    def has_processors(self) -> bool:
        """Penalties or bias change the logits."""
        has_penalties = self.has_output_penalties or self.repetition_penalty != 1.0
        return bool(self.logit_bias) or has_penalties

    @property
    def has_filters(self) -> bool:
        """Unlikely tokens are left out of the draw."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


class Sampler:
    """The choices of one sequence. Owns its token counts and output position."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: tuple[int, ...],
        *,
        ending_ids: frozenset[int] = frozenset(),
        min_tokens: int = 0,
    ) -> None:
        self.params = params
        self._counts = TokenCounts(prompt_token_ids if params.repetition_penalty != 1.0 else ())
        self._position = 0
        self._ending_ids = sorted(ending_ids)
        self._min_tokens = min_tokens

    @property
    def takes_argmax(self) -> bool:
        """The next choice is simply the largest raw logit."""
        return self.params.is_greedy and not self.params.has_processors and not self._must_go_on

    def choose(self, logits: Tensor) -> int:
        """Pick the token at the current position from raw logits [vocabulary]; one host sync."""
        scores = self._processed(logits)
        if self.params.is_greedy:
            return _best(scores)
        scores = scores.float() / self.params.temperature
        u = uniform(self.params.seed, self._position)
        return self._filtered_draw(scores, u) if self.params.has_filters else _full_draw(scores, u)

    def push(self, token_id: int) -> None:
        """Move on past an emitted token."""
        self._counts.push(token_id)
        self._position += 1

    @property
    def _must_go_on(self) -> bool:
        return self._position < self._min_tokens and bool(self._ending_ids)

    def _processed(self, logits: Tensor) -> Tensor:
        """Bias, penalties and the ban on early endings, on a copy where anything changes."""
        if not self.params.has_processors and not self._must_go_on:
            return logits
        scores = logits.float().clone()
        if self.params.logit_bias:
            ids, biases = zip(*self.params.logit_bias, strict=True)
            # -100 bans outright, so that no logit is large enough to bring the token back.
            values = [-math.inf if bias <= BANNED else bias for bias in biases]
            scores[_tensor(ids, scores)] += _tensor(values, scores)
        if self.params.has_processors:
            self._penalize(scores)
        if self._must_go_on:
            scores[_tensor(self._ending_ids, scores)] = -math.inf
        return scores

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
        is_all = len(best) == len(scores)
        lowest = border(best, host[1, -1], self.params, is_all=is_all)
        if lowest is None:
            return self._sorted_draw(scores, u)
        kept = host[:, :-1][:, best >= lowest]
        kept = kept[:, np.argsort(kept[0])]
        return int(kept[0, draw(kept[1], u)])

    def _sorted_draw(self, scores: Tensor, u: float) -> int:
        """The same where the shortlist does not reach the border: sort everything, seldom."""
        host = scores.cpu().numpy()
        best = np.sort(host)[::-1].astype(np.float64)
        log_total = float(best[0] + np.log(np.exp(best - best[0]).sum()))
        lowest = border(best, log_total, self.params, is_all=True)
        kept = np.flatnonzero(host >= lowest)
        return int(kept[draw(host[kept].astype(np.float64), u)])


def uniform(seed: int, position: int) -> float:
    """The random number of one output position, in [0, 1): a hash of both, by Philox."""
    bits = np.random.Philox(key=seed, counter=position).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def _best(scores: Tensor) -> int:
    index = argmax_ids(scores[None])
    token_id, score = torch.stack([index.double(), scores[index].double()])[:, 0].tolist()
    _check(score)
    return int(token_id)


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
    if not math.isfinite(best):
        raise SamplingError(f"no token can be chosen: the best of the processed logits is {best}")


def _tensor(values: object, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(values)
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(like.device, dtype)
