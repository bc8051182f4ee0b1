"""The check that a row's bits depend on its own words alone, made at load instead of trusted.

A few tokens are decoded plainly, one row a pass. Then the same rows are computed in other company:
as a draft's path among wrong siblings, beside another sequence, after a prompt that was read in
other runs, on rows that were copied. Whatever the way, their logits must have the same bits.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from verifier.cache.kv_cache import KVCache
from verifier.model.batch import Segment, draft_segment, prompt_segment
from verifier.model.findings import Findings, key_of
from verifier.model.model import TargetModel, VerificationMode
from verifier.speculation.tree import EMPTY_TREE, DraftTree, chain

NUM_SLOTS = 3
PROMPT_LEN = 70  # more than a block of positions
NUM_ROWS = 4  # that are decoded
CAPACITY = PROMPT_LEN + 4 * NUM_ROWS


def check_bits(model: TargetModel, findings: Findings | None) -> None:
    """Set whether the model is bitwise, as is known of it on this machine or is found out now."""
    key = key_of(model)
    known = findings.get(key).get("not_bitwise_reason") if findings else None
    reason = known if isinstance(known, str) else why_not_bitwise(model)
    if findings and known is None:
        findings.put(key, not_bitwise_reason=reason)
    model.bitwise, model.not_bitwise_reason = not reason, reason


def why_not_bitwise(model: TargetModel) -> str:
    """What changes a row's bits; empty where nothing does. Needs NUM_SLOTS slots of CAPACITY."""
    length = min(PROMPT_LEN, model.max_context - NUM_ROWS)
    tokens = [2 + i * 7 % (model.vocabulary_size - 2) for i in range(length + NUM_ROWS)]
    prompt, rest = tokens[:length], tokens[length:]
    plain = _in_slots(model, lambda slots: _plain(model, slots[0], prompt, rest, runs=length))
    for reason, compute in _ways(model, prompt, rest):
        if not torch.equal(_in_slots(model, compute), plain):
            return reason
    return ""


def _ways(
    model: TargetModel, prompt: list[int], rest: list[int]
) -> Iterator[tuple[str, Callable[[list[int]], Tensor]]]:
    """What a row's bits may not depend on, and its logits computed with that changed."""
    length = len(prompt)
    yield (
        "a row's bits depend on the runs in which its prompt was read",
        lambda slots: _plain(model, slots[0], prompt, rest, runs=17),
    )
    yield (
        "a row's bits depend on the other rows of its pass",
        lambda slots: _plain(model, slots[0], prompt, rest, runs=length, beside=slots[1]),
    )
    yield (
        "a row's bits depend on the other sequences of its pass",
        lambda slots: _together(model, slots, prompt, rest),
    )
    is_chain = model.form is VerificationMode.CHAIN
    drafted, copied = (_chained, _chain_copied) if is_chain else (_drafted, _copied)
    yield (
        "a row's bits depend on what is drafted beside it",
        lambda slots: drafted(model, slots[0], prompt, rest),
    )
    yield (
        "a row's bits depend on whether its prompt's rows were copied",
        lambda slots: copied(model, slots, prompt, rest),
    )


def _in_slots(model: TargetModel, compute: Callable[[list[int]], Tensor]) -> Tensor:
    slots = [model.slots.allocate() for _ in range(NUM_SLOTS)]
    try:
        return compute(slots)
    finally:
        for slot in slots:
            model.slots.free(slot)


def _read(
    model: TargetModel, slot: int, prompt: list[int], runs: int, *, is_marked: bool = False
) -> None:
    for start in range(0, len(prompt), runs):
        run = tuple(prompt[start : start + runs])
        model.forward([prompt_segment(slot, start, run, is_last=False, is_marked=is_marked)])
        model.commit(slot, list(range(len(run))))


def _plain(
    model: TargetModel,
    slot: int,
    prompt: list[int],
    rest: list[int],
    *,
    runs: int,
    beside: int | None = None,
) -> Tensor:
    """Logits [rest, vocabulary], a pass for each row; `beside`: a slot whose prompt is read too."""
    _read(model, slot, prompt, runs)
    return torch.cat([_step(model, slot, token, beside, prompt) for token in rest])


def _step(
    model: TargetModel, slot: int, token: int, beside: int | None, other: list[int]
) -> Tensor:
    segments: list[Segment] = []
    if beside is not None:
        read = model.slots.length(beside)
        run = tuple(reversed(other))[read : read + len(other) // NUM_ROWS]
        segments = [prompt_segment(beside, read, run, is_last=False)]
    segments.append(draft_segment(slot, model.slots.length(slot), token, EMPTY_TREE))
    logits = model.forward(segments).clone()  # the next pass may write there
    for segment in segments:
        kept = segment.num_rows
        model.commit(segment.slot, list(range(kept)))
    return logits


def _together(model: TargetModel, slots: list[int], prompt: list[int], rest: list[int]) -> Tensor:
    """The same as plain decoding, with another sequence that decodes beside it."""
    first, second, _ = slots
    _read(model, first, prompt, len(prompt))
    _read(model, second, prompt[::-1], len(prompt))
    logits = []
    for token in rest:
        segments = [
            draft_segment(slot, model.slots.length(slot), own, EMPTY_TREE)
            for slot, own in ((second, token ^ 1), (first, token))
        ]
        logits.append(model.forward(segments)[1:].clone())
        for segment in segments:
            model.commit(segment.slot, [0])
    return torch.cat(logits)


def _drafted(model: TargetModel, slot: int, prompt: list[int], rest: list[int]) -> Tensor:
    """One pass: the rest as a path, each token behind a wrong sibling that has a child."""
    _read(model, slot, prompt, len(prompt))
    token_ids: list[int] = []
    parents: list[int] = []
    rows, last = [0], -1
    for token in rest[1:]:
        node = len(token_ids)
        token_ids += [token ^ 1, token, token ^ 1]
        parents += [last, last, node]
        last = node + 1
        rows.append(last + 1)
    tree = DraftTree(tuple(token_ids), tuple(parents), (1.0,) * len(token_ids))
    return model.forward([draft_segment(slot, len(prompt), rest[0], tree)])[rows]


def _copied(model: TargetModel, slots: list[int], prompt: list[int], rest: list[int]) -> Tensor:
    """The draft's rows are committed, moved together, and the last row computed on a copy."""
    assert isinstance(model.slots, KVCache)
    first, second, _ = slots
    logits = _drafted(model, first, prompt, rest)
    model.commit(first, [0, *range(2, 3 * (NUM_ROWS - 1), 3)])
    model.slots.share(second, model.slots.table(first), len(prompt) + NUM_ROWS - 1)
    again = model.forward([draft_segment(second, len(prompt) + NUM_ROWS - 1, rest[-1], EMPTY_TREE)])
    return torch.cat([logits[:-1], again])


def _chained(model: TargetModel, slot: int, prompt: list[int], rest: list[int]) -> Tensor:
    """Two passes: a draft whose end is wrong, and the rest after what was right of it."""
    _read(model, slot, prompt, len(prompt))
    half = len(rest) // 2
    right = rest[1:half]
    first = chain([*right, rest[half] ^ 1, rest[half]])
    logits = model.forward([draft_segment(slot, len(prompt), rest[0], first)])[:half].clone()
    model.commit(slot, list(range(half)))
    last = draft_segment(slot, len(prompt) + half, rest[half], chain(rest[half + 1 :]))
    return torch.cat([logits, model.forward([last])])


def _chain_copied(
    model: TargetModel, slots: list[int], prompt: list[int], rest: list[int]
) -> Tensor:
    """The prompt's state is taken over by another slot, which decodes."""
    assert isinstance(model.slots, KVCache)
    first, second, _ = slots
    _read(model, first, prompt, len(prompt), is_marked=True)
    model.slots.share(second, model.slots.table(first), len(prompt))
    return torch.cat([_step(model, second, token, None, prompt) for token in rest])
