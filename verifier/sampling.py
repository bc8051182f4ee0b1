"""Choosing one token: processors in Hugging Face's order, then greedy or inverse-CDF sampling.

Randomness depends on (seed, output position) alone, so the same seed gives the same text whatever
was drafted. Choices are made along the accepted path, one at a time, so penalties see exactly the
tokens before them.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Filters look at this many best tokens first; wider nuclei fall back to a full sort.
SHORTLIST = 1024
BANNED = -100.0
GREEDY_BELOW = 1e-5  # temperatures below this would overflow float32 logits


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
    def has_processors(self) -> bool:
        """Penalties or bias change the logits."""
        penalties = (self.frequency_penalty, self.presence_penalty, self.repetition_penalty - 1.0)
        return bool(self.logit_bias) or any(penalties)


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
        self._seen = set(prompt_token_ids)
        self._counts: Counter[int] = Counter()
        self._position = 0
        self._ending_ids = sorted(ending_ids)
        self._min_tokens = min_tokens

    @property
    def takes_argmax(self) -> bool:
        """The next choice is simply the largest raw logit."""
        must_go_on = self._position < self._min_tokens and bool(self._ending_ids)
        return self.params.is_greedy and not self.params.has_processors and not must_go_on

    def choose(self, logits: Tensor) -> int:
        """Pick the token at the current position from raw logits [vocabulary]."""
        scores = self._processed(logits)
        token_id = int(scores.argmax()) if self.params.is_greedy else self._sampled(scores)
        if not torch.isfinite(scores[token_id]) or not bool(torch.isfinite(logits[token_id])):
            raise SamplingError("the logits allow no token: not finite, or all tokens banned")
        return token_id

    def push(self, token_id: int) -> None:
        """Move on past an emitted token."""
        self._counts[token_id] += 1
        self._seen.add(token_id)
        self._position += 1

    def _processed(self, logits: Tensor) -> Tensor:
        """Bias, penalties and the ban on early endings, as a copy where anything changes."""
        p, scores = self.params, logits
        if p.has_processors:
            scores = logits.clone()
            self._add_bias(scores)
            if p.repetition_penalty != 1.0 and self._seen:
                ids = torch.tensor(sorted(self._seen), device=scores.device)
                seen = scores[ids]
                scores[ids] = torch.where(
                    seen < 0, seen * p.repetition_penalty, seen / p.repetition_penalty
                )
            if (p.frequency_penalty or p.presence_penalty) and self._counts:
                ids = torch.tensor(list(self._counts), device=scores.device)
                counts = torch.tensor(list(self._counts.values()), device=scores.device)
                scores[ids] -= counts * p.frequency_penalty + p.presence_penalty
        if self._position < self._min_tokens and self._ending_ids:
            scores = scores.clone() if scores is logits else scores
            scores[torch.tensor(self._ending_ids, device=scores.device)] = -torch.inf
        return scores

    def _add_bias(self, scores: Tensor) -> None:
        for token_id, bias in self.params.logit_bias:
            if bias <= BANNED:
                scores[token_id] = -torch.inf
            else:
                scores[token_id] += bias

    def _sampled(self, scores: Tensor) -> int:
        """Inverse CDF over the filtered distribution, in token-id order, in float64."""
        ids, probabilities = filtered(scores / self.params.temperature, self.params)
        cumulative = torch.cumsum(probabilities, 0)
        u = uniform(self.params.seed, self._position) * float(cumulative[-1])
        index = int(torch.searchsorted(cumulative, u, right=True))
        return int(ids[min(index, len(ids) - 1)])


def uniform(seed: int, position: int) -> float:
    """The random number of one output position, in [0, 1)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def filtered(scores: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Token ids, rising, that survive top-k, top-p and min-p, and their float64 weights.

    Ties at a border keep all tied tokens, as Hugging Face's top-k does.
    """
    probabilities = torch.softmax(scores.double(), -1)
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if 0 < params.top_k < len(scores):
        keep &= probabilities >= top_values(probabilities, params.top_k)[-1]
    if params.top_p < 1.0:
        mass = torch.where(keep, probabilities, 0.0)
        keep &= probabilities >= _nucleus_border(mass / mass.sum(), params.top_p) * mass.sum()
    if params.min_p > 0.0:
        keep &= probabilities >= params.min_p * probabilities.max()
    ids = torch.nonzero(keep).squeeze(1)
    return ids, probabilities[ids]


def _nucleus_border(probabilities: Tensor, top_p: float) -> Tensor:
    """The smallest probability inside the nucleus: the one that makes the sum reach top_p."""
    for size in (SHORTLIST, len(probabilities)):
        best = top_values(probabilities, min(size, len(probabilities)))
        reached = torch.nonzero(torch.cumsum(best, 0) >= top_p)
        if len(reached):
            return best[int(reached[0])]
    return probabilities.min()  # rounding kept the sum just below top_p


def top_values(values: Tensor, k: int) -> Tensor:
    """The k largest, falling."""
    return torch.topk(values, k).values


def top_ids(logits: Tensor, k: int) -> Tensor:
    """Ids [rows, k] of the k largest logits [rows, vocabulary] of each row, largest first.

    Exact: the k best tokens lie in the k chunks with the best maxima. Several times faster than
    `topk` over a large vocabulary.
    """
    rows, vocabulary = logits.shape
    chunk = 512
    if vocabulary < 8 * chunk:
        return torch.topk(logits, min(k, vocabulary), dim=1).indices
    whole = vocabulary // chunk * chunk
    chunks = logits[:, :whole].view(rows, -1, chunk)
    best = torch.topk(chunks.amax(2), k, dim=1).indices  # [rows, k]
    columns = best[:, :, None] * chunk + torch.arange(chunk, device=logits.device)
    tail = torch.arange(whole, vocabulary, device=logits.device).expand(rows, -1)
    columns = torch.cat([columns.view(rows, -1), tail], 1)
    found = torch.topk(logits.gather(1, columns), k, dim=1).indices
    return columns.gather(1, found)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probability of an emitted token, and the best alternatives, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Log probabilities from raw logits [vocabulary], before any processor."""
    values = torch.log_softmax(logits.float(), -1)
    best = torch.topk(values, num_top) if num_top else None
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
    return TokenLogprobs(float(values[token_id]), top)
