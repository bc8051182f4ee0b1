"""Largest logits of each row, several times faster than torch's own search of a large vocabulary.

The maxima of chunks come first: the k best tokens lie in the k chunks with the best maxima.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

CHUNK = 64


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probability of an emitted token, and the best alternatives, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    rank: int = 0  # of a prompt's token among all, from 1 on


@dataclass(frozen=True, slots=True)
class Best:
    """The token with the largest logit of a row: of equals the lowest id; NaN counts as largest."""

    token_id: int
    logit: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best tokens of each row, on the host."""

    best: list[Best]
    top: list[list[int]]  # k ids of each row, largest logit first

    def __getitem__(self, rows: slice) -> "Ranking":
        return Ranking(self.best[rows], self.top[rows])


def rank(logits: Tensor, k: int) -> Ranking:
    """Rank the rows of logits [rows, vocabulary]; one transfer that waits for the device."""
    return read_ranked(logits, ranked(logits, k), k)


def ranked(logits: Tensor, k: int) -> Tensor:
    """Ids and logits [rows, 2 x at least k] of each row's best tokens, on the device."""
    found = top_ids(logits, max(k, 2))  # two show whether the best is tied
    return torch.cat([found.double(), logits.gather(1, found).double()], 1)


def read_ranked(logits: Tensor, best: Tensor, k: int) -> Ranking:
    """What `ranked` found of these logits, on the host, cut to k; waits for the device."""
    ids, scores = np.split(best.cpu().numpy(), 2, axis=1)
    is_tied = scores == scores[:, :1]
    is_tied[:, 0] = True  # NaN is equal to nothing
    first = np.where(is_tied, ids, np.inf).min(1)
    for row in np.flatnonzero(is_tied.all(1)):  # there may be more of them than were asked for
        first[row] = int((logits[row] == float(scores[row, 0])).nonzero()[0, 0])
    found = map(Best, first.astype(int).tolist(), scores[:, 0].tolist())
    return Ranking(list(found), ids[:, :k].astype(int).tolist())


def top_ids(logits: Tensor, k: int) -> Tensor:
    """Ids [rows, k] of the k largest logits of each row, largest first; all where k is too many."""
    rows, vocabulary = logits.shape
    num_chunks = vocabulary // CHUNK
    if num_chunks < 2 * k:
        return torch.topk(logits, min(k, vocabulary), dim=1).indices
    whole = num_chunks * CHUNK
    maxima = logits[:, :whole].view(rows, num_chunks, CHUNK).amax(2)
    best = torch.topk(maxima, k, dim=1, sorted=False).indices  # [rows, k]
    columns = best[:, :, None] * CHUNK + torch.arange(CHUNK, device=logits.device)
    tail = torch.arange(whole, vocabulary, device=logits.device).expand(rows, -1)
    columns = torch.cat([columns.flatten(1), tail], 1)
    found = torch.topk(logits.gather(1, columns), k, dim=1).indices
    return columns.gather(1, found)


def prompt_logprobs(
    logits: Tensor, token_ids: Sequence[int], num_top: int
) -> tuple[TokenLogprobs, ...]:
    """What each row of logits [rows, vocabulary] says of the prompt's next token."""
    following = torch.tensor(token_ids, device=logits.device)
    own = logits.gather(1, following[:, None])
    ranks = (1 + (logits > own).sum(1)).tolist()
    return tuple(
        replace(logprobs(row, token_id, num_top), rank=rank)
        for row, token_id, rank in zip(logits, token_ids, ranks, strict=True)
    )


def logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Log probabilities from raw logits [vocabulary], before any processor."""
    values = logits.float()
    ids = torch.tensor([token_id], device=values.device)
    if num_top:
        ids = torch.cat([ids, top_ids(values[None], num_top)[0]])
    chosen = values[ids].double() - torch.logsumexp(values, 0)
    host_ids, host_values = torch.stack([ids.double(), chosen]).tolist()  # the one sync
    top = zip((int(i) for i in host_ids[1:]), host_values[1:], strict=True)
    return TokenLogprobs(host_values[0], tuple(top))
