"""From a model's name to a running engine: weights, form, packed products, step-time curve."""

from pathlib import Path

import torch

from verifier.config import VerifierConfig
from verifier.draft_client import DraftClient
from verifier.engine import Engine
from verifier.linear import pack_linears
from verifier.measurements import cache_path, load_or_measure
from verifier.model import TargetModel, load_weights
from verifier.probe import choose_form
from verifier.tokenizer import Tokenizer, load_tokenizer


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
        attention=config.attention,
    )
    pack_linears(hf)  # first, so that the form is probed with the products that will be used
    choose_form(
        model,
        hf,
        num_slots=config.max_sequences,
        draft_rows=1 + config.max_nodes,
        kv_memory=config.kv_memory,
    )
    return model


def model_name(path: str) -> str:
    """What to call the model: a hub id as it is, a local path by its last part."""
    return Path(path).name if Path(path).exists() else path


def make_engine(model: TargetModel, tokenizer: Tokenizer, config: VerifierConfig) -> Engine:
    """Connect the engine's parts."""
    addresses = [address.strip() for address in config.drafter.split(",") if address.strip()]
    drafts = (
        DraftClient(
            addresses,
            vocabulary=tokenizer.fingerprint,
            vocabulary_size=model.vocabulary_size,
            tls=config.drafter_tls(),
        )
        if addresses
        else None
    )
    return Engine(model, tokenizer, drafts, load_or_measure(cache_path(), model), config)


def load_engine(config: VerifierConfig) -> tuple[Engine, Tokenizer]:
    """Load everything; takes seconds to minutes, so call it off the event loop."""
    tokenizer = load_tokenizer(config.model)
    return make_engine(load_model(config), tokenizer, config), tokenizer
