"""What weights and cache take, how many sequences fit, and how far a large pass goes beyond."""

from collections.abc import Iterator

import torch

from bench.gpu.lab import Lab, allocated
from bench.gpu.passes import cached, drafted, step
from bench.gpu.report import Note, Result
from bench.serving.figures import Figure
from verifier.cache.kv_cache import KVCache
from verifier.cache.pages import PAGE
from verifier.model.model import TargetModel

SECTION = "memory"
GB = 1e9
LARGE = (64, 25)  # streams of a pass, and rows of each
CACHED = 64


def memory(lab: Lab) -> Iterator[Result]:
    """With as many slots as a server might be asked for, in what memory is free."""
    served = lab.served(num_slots=lab.sizes.many_slots)
    model = served.model
    with_weights, with_cache = served.allocated
    yield Figure(SECTION, "weights", served.num_bytes / GB, "GB")
    yield Figure(SECTION, "in use with the weights", with_weights / GB, "GB")
    yield Figure(SECTION, "in use with the cache", with_cache / GB, "GB")
    fitting = f"{model.slots.num_slots} slots of {lab.sizes.many_slots}"
    yield Note(SECTION, "slots", f"{fitting}, of {model.max_context} tokens at most")
    assert isinstance(model.slots, KVCache), "this shape is served from pages"
    num_tokens = PAGE * model.slots.pages.num_pages
    yield Figure(SECTION, "cached tokens that fit", num_tokens, "")
    yield _large_pass(lab, model)
    if lab.device.type == "cuda":
        reserved = torch.cuda.memory_reserved(lab.device)
        yield Figure(SECTION, "held by the allocator", reserved / GB, "GB")
    yield Figure(SECTION, "in use at the end", allocated(lab.device) / GB, "GB")


def _large_pass(lab: Lab, model: TargetModel) -> Result:
    """As many drafts as a server may verify at once, beside the weights and the full cache."""
    streams, rows = min(LARGE[0], model.slots.num_slots), LARGE[1]
    name = f"a pass of {streams} streams, {rows} rows of each"
    _peak(lab.device)
    before = allocated(lab.device)
    try:
        with cached(model, streams, CACHED) as slots:
            step(model, [drafted(model, slot, rows) for slot in slots])
    except RuntimeError as error:
        return Note(SECTION, name, f"does not fit: {str(error)[:80]!r}")
    return Figure(
        SECTION, f"{name}: most beyond the cache", (_peak(lab.device) - before) / GB, "GB"
    )


def _peak(device: torch.device) -> int:
    """Most bytes in use since the last time that this was asked."""
    if device.type != "cuda":
        return allocated(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
