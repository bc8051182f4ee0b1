"""Mistakes that only a GPU shows: each is tried, and what happens is said."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.exactness.runs import collect
from bench.gpu.answers import PLAIN, answering, request
from bench.gpu.lab import Lab, Served
from bench.gpu.passes import cached, drafted, step, words
from bench.gpu.report import Note, Result
from bench.serving.figures import Figure

SECTION = "bugs"
NUM_STEPS = 20
LONG_PROMPT = 600  # more than one pass reads beside others
BACKENDS = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def bugs(lab: Lab) -> Iterator[Result]:
    """Plans for each length, prompts beside streams, expanded keys, code compiled in threads."""
    yield from _growing(lab, lab.served(shape=lab.small_shape, attention="masked"))
    yield _beside(lab, lab.served(shape=lab.small_shape))
    for name, backend in BACKENDS.items():
        yield _expanded(lab, name, backend)
    yield _recompiled(lab)


def _growing(lab: Lab, served: Served) -> Iterator[Result]:
    """Steps of a growing sequence: a kernel that plans for each length takes long in each."""
    cuda: Any = torch.backends.cuda
    was_on = cuda.cudnn_sdp_enabled()
    try:
        for is_on in (False, True):
            cuda.enable_cudnn_sdp(is_on)
            seconds = _growing_s(lab, served)
            name = f"{NUM_STEPS} steps that grow, cuDNN's attention {'on' if is_on else 'off'}"
            yield Figure(SECTION, f"{name}: median", 1e3 * statistics.median(seconds), "ms")
            yield Figure(SECTION, f"{name}: slowest", 1e3 * max(seconds), "ms")
    finally:
        cuda.enable_cudnn_sdp(was_on)


def _growing_s(lab: Lab, served: Served) -> list[float]:
    model, seconds = served.model, []
    with cached(model, 1, lab.sizes.context // 2) as (slot,):
        step(model, [drafted(model, slot, 1)])  # the first one of all takes longer
        for _ in range(NUM_STEPS):
            started = time.perf_counter()
            step(model, [drafted(model, slot, 1)])
            seconds.append(time.perf_counter() - started)
            model.commit(slot, [0])
    return seconds


def _beside(lab: Lab, served: Served) -> Result:
    """A long prompt that is read in several passes while another sequence decodes."""
    short, long = asyncio.run(_two_answers(lab, served))
    wanted = (lab.sizes.tokens, 8)
    text = "both are answered" if (short, long) == wanted else f"{short}, {long} tokens of {wanted}"
    return Note(SECTION, f"a prompt of {LONG_PROMPT} tokens beside a stream", text)


async def _two_answers(lab: Lab, served: Served) -> tuple[int, int]:
    """How many tokens each has said."""
    async with answering(lab, served, PLAIN) as running:
        sizes = ((64, lab.sizes.tokens), (LONG_PROMPT, 8))
        requests = [
            request(lab.config, words(served.model, length, seed), num_tokens)
            for seed, (length, num_tokens) in enumerate(sizes)
        ]
        said = await asyncio.gather(*(collect(running.engine, each) for each in requests))
    return len(said[0].token_ids), len(said[1].token_ids)


def _expanded(lab: Lab, name: str, backend: SDPBackend) -> Result:
    """Whether a kernel takes a mask, and keys that several heads share without a copy."""
    heads, rows, kv_len, dim = 8, 9, 200, 64
    query = torch.randn(1, heads, rows, dim, device=lab.device, dtype=lab.dtype)
    key = torch.randn(1, 1, kv_len, dim, device=lab.device, dtype=lab.dtype)
    mask = torch.ones(rows, kv_len, dtype=torch.bool, device=lab.device).tril(kv_len - rows)
    keys = key.expand(-1, heads, -1, -1)
    try:
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(query, keys, keys, attn_mask=mask)[0, 0, 0, 0].item()
    except RuntimeError as error:
        return Note(SECTION, f"mask and expanded keys: {name}", f"no: {str(error)[:60]!r}")
    return Note(SECTION, f"mask and expanded keys: {name}", "yes")


def _recompiled(lab: Lab) -> Result:
    """Code compiled in one thread and compiled anew in another, as an engine's worker might."""
    name = "compiled in a thread, anew in another"
    if lab.device.type != "cuda":
        return Note(SECTION, name, "asked of a GPU only")
    run: Callable[..., Any] = torch.compile(_some_layers, mode="reduce-overhead", dynamic=False)

    def call(rows: int) -> None:
        for _ in range(3):  # warm up, record, replay
            run(torch.ones(rows, 64, device=lab.device, dtype=lab.dtype)).sum().item()

    for rows in (1, 2):
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(call, rows).result()
            except Exception as error:
                return Note(SECTION, name, f"no, in thread {rows}: {str(error)[:60]!r}")
    return Note(SECTION, name, "yes")


def _some_layers(x: torch.Tensor) -> torch.Tensor:
    return F.silu(x @ x.T) @ x
