"""Passes of a served model by themselves: sequences with cached tokens, and rows to verify."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from verifier.model.batch import Segment, draft_segment, prompt_segment
from verifier.model.model import TargetModel
from verifier.speculation.tree import chain

RUN = 512  # rows in which prompts are read


def words(model: TargetModel, count: int, seed: int) -> list[int]:
    """Token ids without a pattern, the same for the same seed."""
    return [
        2 + (seed * 7919 + i * i * 31 + i * 17) % (model.vocabulary_size - 2) for i in range(count)
    ]


@contextmanager
def cached(model: TargetModel, count: int, length: int) -> Iterator[list[int]]:
    """Slots with so many tokens each, all different."""
    slots = [model.slots.allocate() for _ in range(count)]
    try:
        for slot in slots:
            read(model, slot, words(model, length, slot))
        yield slots
    finally:
        for slot in slots:
            model.slots.free(slot)


def read(model: TargetModel, slot: int, token_ids: Sequence[int]) -> None:
    """Put the rows of these tokens into the slot's cache."""
    for start in range(0, len(token_ids), RUN):
        run = tuple(token_ids[start : start + RUN])
        model.forward([prompt_segment(slot, start, run, is_last=False)])
        model.commit(slot, list(range(len(run))))


def drafted(model: TargetModel, slot: int, rows: int, seed: int = 0) -> Segment:
    """A pass's rows of one sequence: the last token and a draft below it."""
    root, *rest = words(model, rows, seed)
    return draft_segment(slot, model.slots.length(slot), root, chain(rest))


def step(model: TargetModel, segments: list[Segment]) -> Tensor:
    """A pass whose logits [rows, vocabulary] are there, since the host has read some of them."""
    logits = model.forward(segments)
    logits[:, 0].tolist()
    return logits
