"""From a model's name to a running engine: weights, form, packed products, step-time curve."""

import os
import platform
import statistics
import time
from pathlib import Path

import torch

from verifier.batch import draft_segment, prompt_segment
from verifier.budget import StepCurve, load_or_measure
from verifier.config import VerifierConfig
from verifier.draft_client import DraftClient
from verifier.engine import Engine
from verifier.linear import pack_linears
from verifier.model import Form, TargetModel, load_weights
from verifier.probe import choose_form
from verifier.tokenizer import Tokenizer, load_tokenizer
from verifier.tree import EMPTY_TREE, DraftTree

NUM_TIMINGS = 4
NUM_NOISE_STEPS = 12
PROMPT_LEN = 64  # of the sequence that steps are timed on


def load_model(config: VerifierConfig) -> TargetModel:
    """Load the weights, find the form the model is right in, and make its products fast."""
    if config.threads:
        torch.set_num_threads(config.threads)
    hf = load_weights(config.model, device=config.device, dtype=config.dtype)
    limit = getattr(hf.config.get_text_config(), "max_position_embeddings", None)
    model = TargetModel(
        hf,
        model_name(config.model),
        max_context=min(config.max_context, limit or config.max_context),
    )
    pack_linears(hf)  # first, so that the form is probed with the products that will be used
    choose_form(model, hf, num_slots=config.max_sequences, draft_rows=1 + config.max_nodes)
    return model


def model_name(path: str) -> str:
    """What to call the model: a hub id as it is, a local path by its last part."""
    return Path(path).name if Path(path).exists() else path


def make_engine(model: TargetModel, tokenizer: Tokenizer, config: VerifierConfig) -> Engine:
    """Connect the engine's parts."""
    addresses = [address.strip() for address in config.drafter.split(",") if address.strip()]
    drafts = (
        DraftClient(
            addresses, vocabulary=tokenizer.fingerprint, vocabulary_size=model.vocabulary_size
        )
        if addresses
        else None
    )
    return Engine(
        model, tokenizer, drafts, step_curve(model), config, margin=rounding_margin(model)
    )


def load_engine(config: VerifierConfig) -> tuple[Engine, Tokenizer]:
    """Load everything; takes seconds to minutes, so call it off the event loop."""
    tokenizer = load_tokenizer(config.model)
    return make_engine(load_model(config), tokenizer, config), tokenizer


def step_curve(model: TargetModel) -> StepCurve:
    """How long a step of so many rows takes here: measured once per model and machine."""
    if model.form is Form.PLAIN:
        return StepCurve([1, 2], [1.0, 2.0])  # no drafts, no choice to make
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parts = (
        model.fingerprint,
        model.form.name,
        str(model.device),
        platform.node(),
        str(torch.get_num_threads()),
        str(os.cpu_count()),
        torch.__version__,
    )
    slot = model.slots.allocate()
    try:
        model.forward([prompt_segment(slot, 0, (1,) * PROMPT_LEN, is_last=True)])
        model.commit(slot, list(range(PROMPT_LEN)))
        path = cache / "lookahead" / "step-curves.json"
        return load_or_measure(path, "/".join(parts), lambda rows: _step_s(model, slot, rows))
    finally:
        model.slots.free(slot)


def _step_s(model: TargetModel, slot: int, rows: int) -> float:
    tree = _chain(rows - 1)
    kv_len = model.slots.length(slot)
    seconds = []
    for _ in range(NUM_TIMINGS):
        started = time.perf_counter()
        logits = model.forward([draft_segment(slot, kv_len, 1, tree)])
        logits[:, 0].tolist()  # wait for the device
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def rounding_margin(model: TargetModel) -> float:
    """Greedy choices closer than this may turn out otherwise in a pass of another width.

    Four times the largest difference seen between a plain pass and a wide one: either of the two
    logits may be off, and not all differences were seen.
    """
    if model.form is Form.PLAIN:
        return 0.0
    slot = model.slots.allocate()
    try:
        noise = 0.0
        for step in range(NUM_NOISE_STEPS):
            root = 2 + step % (model.vocabulary_size - 2)
            kv_len = model.slots.length(slot)
            wide = model.forward([draft_segment(slot, kv_len, root, _chain(15))])[0]
            plain = model.forward([draft_segment(slot, kv_len, root, EMPTY_TREE)])[0]
            noise = max(noise, float((wide - plain).abs().max()))
            model.commit(slot, [0])
        return 4 * noise
    finally:
        model.slots.free(slot)


def _chain(num_nodes: int) -> DraftTree:
    if not num_nodes:
        return EMPTY_TREE
    return DraftTree((1,) * num_nodes, tuple(range(-1, num_nodes - 1)), (1.0,) * num_nodes)
