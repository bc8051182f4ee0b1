"""Sampled tokens after some rows: the inverse of each row's distribution at its random number.

Randomness depends on (seed, output position) alone, so the same seed gives the same text whatever
was drafted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.sampling.blocks import in_blocks
from verifier.sampling.filters import Floats, cutoff, draw
from verifier.sampling.params import SamplingParams
from verifier.sampling.ranking import top_ids

# Filters look at this many best tokens first, then at more, then at all: sorting a large vocabulary
# takes longer than a pass of a small model.
SHORTLIST = 512
LONGER_LISTS = (8192, 65536)


@dataclass(frozen=True, slots=True)
class Draw:
    """What is to be drawn after one row of the logits."""

    row: int
    params: SamplingParams  # processors are none of a draw's business
    u: float  # in [0, 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, which counts only where the best score is a number."""

    token_id: int
    best: float  # of the row's scores


def uniforms(seed: int, position: int, count: int) -> NDArray[np.float64]:
    """The random numbers of output positions from one on, in [0, 1): hashes by Philox."""
    bits = np.random.Philox(key=seed, counter=position).random_raw(4 * count)[::4]
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


def draw_tokens(logits: Tensor, draws: Sequence[Draw]) -> list[Drawn]:
    """Draw from logits [rows, vocabulary], with a wait for the device of each kind of draw.

    Each by the same arithmetic, whatever it is drawn together with.
    """
    found: list[Drawn] = [Drawn(0, math.nan)] * len(draws)
    for has_filters, draw_some in ((False, _full_draws), (True, _filtered_draws)):
        own = [i for i, each in enumerate(draws) if each.params.has_filters is has_filters]
        if own:
            for i, drawn in zip(own, draw_some(logits, [draws[i] for i in own]), strict=True):
                found[i] = drawn
    return found


def _full_draws(logits: Tensor, draws: list[Draw]) -> list[Drawn]:
    """Inverse CDF over the whole vocabulary, in token-id order, in float64."""

    def drawn(scores: Tensor, block: list[Draw]) -> Tensor:
        best = scores.amax(1, keepdim=True)
        cumulative = torch.cumsum(torch.exp(scores - best), 1, dtype=torch.float64)
        total = cumulative[:, -1:]
        us = torch.tensor([each.u for each in block], dtype=torch.float64)
        target = total * us[:, None].to(scores.device, non_blocking=True)
        # Rounding must not let the target reach the total, past every token.
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        index = torch.searchsorted(cumulative, target, right=True)
        return torch.cat([index.double(), best.double()], 1)

    host = _from_blocks(logits, draws, drawn)
    return [Drawn(int(index), float(best)) for index, best in host]


def _filtered_draws(logits: Tensor, draws: list[Draw]) -> list[Drawn]:
    """Draw among the surviving tokens in token-id order, in float64."""
    vocabulary = logits.shape[1]

    def shortlist(scores: Tensor, block: list[Draw]) -> Tensor:
        ids = top_ids(scores, SHORTLIST)
        best = scores.gather(1, ids)
        # After top-k only the kept tokens count, and no sum over all is needed.
        needs_total = not all(0 < each.params.top_k < vocabulary for each in block)
        total = torch.logsumexp(scores, 1, keepdim=True) if needs_total else best[:, :1]
        return torch.cat([ids.double(), best.double(), total.double()], 1)

    found = []
    for wanted, row in zip(draws, _from_blocks(logits, draws, shortlist), strict=True):
        size = len(row) // 2
        ids, scores, log_total = row[:size], row[size:-1], float(row[-1])
        token_id = 0
        if math.isfinite(scores[0]):
            is_all = size == vocabulary
            lowest = cutoff(scores, log_total, wanted.params, is_all=is_all)
            order = np.argsort(ids)
            token_id = (
                _wide_draw(_scaled(logits[wanted.row], wanted), log_total, wanted)
                if lowest is None
                else _draw_within(ids[order], scores[order], lowest, wanted.u)
            )
        found.append(Drawn(token_id, float(scores[0])))
    return found


def _from_blocks(
    logits: Tensor, draws: list[Draw], work: Callable[[Tensor, list[Draw]], Tensor]
) -> NDArray[np.float64]:
    """What the work makes of each draw's scores, on the host: the one sync."""
    done = []
    for index, block in in_blocks([each.row for each in draws], draws, logits.device):
        temperatures = torch.tensor([each.params.temperature for each in block])
        temperatures = temperatures.to(logits.device, non_blocking=True)
        done.append(work(logits[index].float() / temperatures[:, None], block))
    return torch.cat(done)[: len(draws)].cpu().numpy()


def _scaled(logits: Tensor, wanted: Draw) -> NDArray[np.float32]:
    return np.asarray((logits.float() / torch.tensor(wanted.params.temperature)).cpu().numpy())


def _wide_draw(scores: NDArray[Any], log_total: float, wanted: Draw) -> int:
    """The same where the shortlist does not reach the cutoff; seldom."""
    for size in (*LONGER_LISTS, len(scores)):
        ids = _best_ids(scores, size)
        listed = scores[ids].astype(np.float64)
        best, is_all = np.sort(listed)[::-1], len(ids) == len(scores)
        lowest = cutoff(best, log_total, wanted.params, is_all=is_all)
        if lowest is not None:
            return _draw_within(ids, listed, lowest, wanted.u)
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
