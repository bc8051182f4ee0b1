"""Which models run in which number format, in which form; and whether their words are right."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import torch

from bench.exactness.runs import collect
from bench.gpu.answers import always_drafting, request
from bench.gpu.lab import Lab
from bench.gpu.passes import words
from bench.gpu.report import Note, Result
from bench.gpu.shapes import random_model
from bench.serving.figures import Figure
from bench.serving.generate import Generate
from tests.support.models.reference import FAMILIES, Family
from verifier.model.ladder import choose_way
from verifier.model.model import TargetModel
from verifier.model.packing import KernelError

SECTION = "families"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CONTEXT = 64
NUM_SLOTS, DRAFT_ROWS = 2, 25
PROMPT_LEN, NUM_TOKENS = 12, 32


def families(lab: Lab) -> Iterator[Result]:
    """Every family in every format, those first in which models are served."""
    for dtype in DTYPES:
        yield from _forms(lab, dtype)
    for family in FAMILIES[: lab.sizes.compared_families]:
        yield _words(lab, family)


def _forms(lab: Lab, dtype: torch.dtype) -> Iterator[Result]:
    name = str(dtype).removeprefix("torch.")
    forms = {f.model_type: _form(lab, f, dtype) for f in FAMILIES[: lab.sizes.families]}
    counts = Counter(forms.values())
    text = ", ".join(f"{count} {form}" for form, count in counts.most_common())
    yield Note(SECTION, f"forms in {name}", text, forms)
    num_failed = sum(form.startswith("failed") for form in forms.values())
    yield Figure(SECTION, f"families that fail in {name}", num_failed, "", at_most=0)


def _form(lab: Lab, family: Family, dtype: torch.dtype) -> str:
    """How it is served; or why not."""
    try:
        model = _model(lab, family, dtype, "auto")
    except torch.AcceleratorError:
        raise  # no other one will work, either
    except Exception as error:
        return f"failed: {str(error)[:80]!r}"
    return f"{model.form.name}{', bitwise' if model.bitwise else ''}"


def _model(lab: Lab, family: Family, dtype: torch.dtype, attention: str) -> TargetModel:
    config = {"model_type": family.model_type, **family.shape}
    hf = random_model(config, dtype=dtype, device=lab.device)
    model = TargetModel(hf, family.model_type, max_context=CONTEXT, attention=attention)
    choose_way(model, hf, graphs="captured", num_slots=NUM_SLOTS, draft_rows=DRAFT_ROWS)
    return model


def _words(lab: Lab, family: Family) -> Result:
    """Tokens in float32 that are not those of generate, by each kind of attention, drafted."""
    config = {"model_type": family.model_type, **family.shape}
    stock = Generate(random_model(config, dtype=torch.float32, device=lab.device))
    different: dict[str, object] = {}
    for attention in lab.attentions:
        try:
            model = _model(lab, family, torch.float32, attention)
        except KernelError:
            different[attention] = "not on this device"
            continue
        prompt = words(model, PROMPT_LEN, 1)
        (wanted,) = stock.greedy([prompt], NUM_TOKENS)
        said = asyncio.run(_said(lab, model, prompt, wanted))
        different[attention] = sum(a != b for a, b in zip(said, wanted, strict=True))
    text = ", ".join(f"{attention}: {count}" for attention, count in different.items())
    name = f"{family.model_type}: of {NUM_TOKENS} tokens, other than generate's"
    return Note(SECTION, name, text, different)


async def _said(lab: Lab, model: TargetModel, prompt: list[int], answer: list[int]) -> list[int]:
    """What is said with drafts that are right for the most part."""
    async with always_drafting(lab, model) as running:
        wanted = request(lab.config, prompt, NUM_TOKENS, prediction=answer)
        said = await collect(running.engine, wanted)
    return said.token_ids
