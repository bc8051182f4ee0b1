"""Whether a row's bits depend on anything but its own words, and whether drafts change words."""

import asyncio
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.exactness.runs import collect
from bench.gpu.answers import always_drafting, request
from bench.gpu.lab import Lab, Served
from bench.gpu.passes import cached, drafted, step, words
from bench.gpu.report import Note, Result
from bench.serving.figures import Figure
from verifier.model.batch import Segment
from verifier.model.model import TargetModel
from verifier.request import Mode

SECTION = "exactness"
DTYPES = (torch.bfloat16, torch.float16)
PROMPT_LEN = 64
SPOILED = 10  # of what is predicted, every such token is wrong


def exactness(lab: Lab) -> Iterator[Result]:
    """In both formats that models are served in."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        served = lab.served(dtype=dtype)
        reason = served.model.not_bitwise_reason
        yield Note(SECTION, f"{name}: the check at load", reason or "bitwise")
        yield from _bits(lab, served, name)
        yield from _words(lab, served, name)


def _bits(lab: Lab, served: Served, name: str) -> Iterator[Result]:
    """The same row in passes of all sizes, at all places, among others."""
    model, counts = served.model, _counts(lab)
    with cached(model, 2, lab.sizes.context) as (slot, other):
        own = _own(model, slot, 1)
        alone = _row(model, [own], 0)
        first = [_row(model, [_own(model, slot, rows)], 0) for rows in counts]
        yield _different(f"{name}: row counts that change a row's bits", first, alone)
        last = [_row(model, [drafted(model, other, rows), own], -1) for rows in counts]
        yield _different(f"{name}: places behind other rows that do", last, alone)
        beside = [_row(model, [drafted(model, other, rows, rows), own], -1) for rows in counts]
        yield _different(f"{name}: other rows' contents that do", beside, alone)


def _row(model: TargetModel, segments: list[Segment], index: int) -> Tensor:
    """A row's logits, which the next pass may not write over."""
    return step(model, segments)[index].clone()


def _counts(lab: Lab) -> list[int]:
    """Powers of two, and what lies between them."""
    counts = lab.sizes.row_counts
    between = {3 * rows // 2 for rows in counts if 3 * rows // 2 <= max(counts)}
    return sorted({*counts, *between})


def _own(model: TargetModel, slot: int, rows: int) -> Segment:
    """A pass's rows, the first of them always the same."""
    return drafted(model, slot, rows, seed=5)


def _different(name: str, rows: Sequence[Tensor], alone: Tensor) -> Result:
    num_different = sum(not torch.equal(row, alone) for row in rows)
    return Figure(SECTION, f"{name}, of {len(rows)}", num_different, "", at_most=0)


def _words(lab: Lab, served: Served, name: str) -> Iterator[Result]:
    total = lab.sizes.greedy[0] * lab.sizes.greedy[1]
    num_different, num_accepted = asyncio.run(_compare(lab, served.model))
    what = f"{name}: of {total} tokens, other than without drafts"
    yield Figure(SECTION, what, num_different, "", at_most=0)
    yield Figure(SECTION, f"{name}: tokens of these that were drafted", num_accepted, "")


async def _compare(lab: Lab, model: TargetModel) -> tuple[int, int]:
    """Tokens that differ between plain decoding alone and drafted decoding together."""
    num_requests, num_tokens = lab.sizes.greedy
    prompts = [words(model, PROMPT_LEN, seed) for seed in range(num_requests)]
    plainly = [request(lab.config, each, num_tokens, mode=Mode.OFF) for each in prompts]
    async with always_drafting(lab, model) as running:
        engine = running.engine
        plain = [(await collect(engine, each)).token_ids for each in plainly]
        guesses = [_spoiled(said, model.vocabulary_size) for said in plain]
        pairs = zip(prompts, guesses, strict=True)
        both = [request(lab.config, each, num_tokens, prediction=guess) for each, guess in pairs]
        said = await asyncio.gather(*(collect(engine, each) for each in both))
    num_different = sum(
        a != b
        for one, other in zip(plain, said, strict=True)
        for a, b in zip(one, other.token_ids, strict=True)
    )
    return num_different, sum(each.num_accepted for each in said)


def _spoiled(token_ids: Sequence[int], vocabulary_size: int) -> list[int]:
    """Right but for every so-manieth token, so that drafts are accepted in part."""
    return [
        token_id if (index + 1) % SPOILED else (token_id + 1) % vocabulary_size
        for index, token_id in enumerate(token_ids)
    ]
