"""Largest logits of each row, several times faster than torch's own search of a large vocabulary.

The maxima of chunks come first: the k best tokens lie in the k chunks with the best maxima.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.sampling.blocks import in_blocks

CHUNK = 64


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probability of an emitted token, and the best alternatives, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    rank: int = 0  # of a prompt's token among all, from 1 on


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best tokens of each row, on the host."""

    best: NDArray[np.int64]  # [rows], of equals the lowest id; NaN counts as largest
    logits: NDArray[np.float64]  # [rows], theirs
    top: NDArray[np.int32]  # [rows, k], largest logit first


def rank(logits: Tensor, k: int) -> Ranking:
    """Rank the rows of logits [rows, vocabulary]; one transfer that waits for the device."""
    return read_ranked(logits, ranked(logits, k), k)


def ranked(logits: Tensor, k: int) -> Tensor:
    """Ids and logits [rows, 2 x at least k] of each row's best tokens, on the device.

    In float64, which holds both, so that one transfer takes them to the host.
    """
    found = top_ids(logits, max(k, 2))  # two show whether the best is tied
    return torch.cat([found.double(), logits.gather(1, found).double()], 1)


def read_ranked(logits: Tensor, best: Tensor, k: int) -> Ranking:
    """What `ranked` found of these logits, on the host, cut to k; waits for the device."""
    ids, scores = np.split(best.cpu().numpy(), 2, axis=1)
    is_tied = scores == scores[:, :1]
    is_tied[:, 0] = True  # NaN is equal to nothing
    first = np.where(is_tied, ids, logits.shape[1]).min(1)
    for row in np.flatnonzero(is_tied.all(1)):  # there may be more of them than were asked for
        first[row] = int((logits[row] == float(scores[row, 0])).nonzero()[0, 0])
    return Ranking(first.astype(np.int64), scores[:, 0], ids[:, :k].astype(np.int32))


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
    found = logprobs(logits, list(range(len(token_ids))), token_ids, num_top)
    return tuple(replace(each, rank=rank) for each, rank in zip(found, ranks, strict=True))


def logprobs(
    logits: Tensor, rows: Sequence[int], token_ids: Sequence[int], num_top: int
) -> list[TokenLogprobs]:
    """Log probabilities of a token after each of some rows of raw logits [any, vocabulary].

    Before any processor; by the same arithmetic for each row, whatever it is asked together with.
    """
    found = []
    for index, own in in_blocks(rows, token_ids, logits.device):
        values = logits[index].float()
        ids = torch.tensor(own)[:, None].to(values.device, non_blocking=True)
        if num_top:
            ids = torch.cat([ids, top_ids(values, num_top)], 1)
        chosen = values.gather(1, ids).double() - torch.logsumexp(values, 1, keepdim=True)
        found.append(torch.stack([ids.double(), chosen]))
    if not found:
        return []
    host = torch.cat(found, 1)[:, : len(rows)].cpu().numpy()  # the one sync
    return [_as_logprobs(ids, values) for ids, values in zip(*host, strict=True)]


def _as_logprobs(ids: NDArray[Any], values: NDArray[Any]) -> TokenLogprobs:
    top = zip(ids[1:].astype(int).tolist(), values[1:].tolist(), strict=True)
    return TokenLogprobs(float(values[0]), tuple(top))
