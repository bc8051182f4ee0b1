"""The probe of models that keep a state: whether chains of tokens continue it rightly.

The model's own cache tells what each layer keeps. Then two sequences are read and drafted in chains
that are right, wrong and half right, and every row is compared with an uncached pass.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from verifier.cache.chain_slots import ChainLayer, state_bytes
from verifier.cache.memory import allowed_bytes, fitting_size
from verifier.cache.slot_layers import LayerShape
from verifier.cache.states import StateShape
from verifier.model import invariance
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.findings import Findings
from verifier.model.model import ChainWay, TargetModel
from verifier.model.placing import Masks
from verifier.speculation.tree import chain

logger = logging.getLogger(__name__)

KNOWN_LAYERS = (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
# What a model may do with passes that it does not know.
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
# The first and the last one have as many rows in every pass, so theirs can be joined.
PROMPTS = ((1, 2, 3, 2), (2, 4), (3, 1, 2, 5))
# The last token, the draft after it, and how much of the draft is taken for right.
STEPS: tuple[tuple[int, tuple[int, ...], int], ...] = (
    (5, (4, 6, 3), 2),
    (7, (2, 2), 0),
    (1, (), 0),
    (2, (), 0),
    (3, (5, 6), 2),
    (4, (), 0),
)


def choose_chains(
    model: TargetModel,
    hf: PreTrainedModel,
    *,
    num_slots: int,
    draft_rows: int,
    kv_memory: str,
    may_shrink: bool,
    findings: Findings | None,
) -> str:
    """Set the model up to verify chains; or say why it cannot."""
    if model.num_processes > 1:
        return "its cache is not made of plain key-value layers"  # states are not cut
    layers = _chain_layers(model)
    if not layers:
        return "its cache is not made of key-value layers and states"
    capacity = model.max_context + draft_rows
    for way in _ways(hf, layers):
        error = _try_way(model, layers, way)
        if error <= tolerance(model.dtype):
            size = fitting_size(
                [layer.rows for layer in layers if layer.rows is not None],
                num_slots=num_slots,
                capacity=capacity,
                item_size=model.dtype.itemsize,
                allowed=allowed_bytes(kv_memory, model.device),
                state_bytes=state_bytes(layers),
                may_shrink=may_shrink,
            )
            model.max_context = size.capacity - draft_rows
            way = _check_bits(model, layers, way, findings)
            model.use_chains(layers, way, **asdict(size))
            logger.info(
                "model_form form=CHAIN way=%s error=%.2g slots=%d pages=%d bitwise=%s",
                way,
                error,
                size.num_slots,
                size.num_pages,
                model.bitwise,
            )
            return ""
        logger.info("model_form_rejected form=CHAIN way=%s error=%.2g", way, error)
    return "several tokens at once do not continue its state"


def tolerance(dtype: torch.dtype) -> float:
    """Room for rounding, far below what a wrong mask or position does."""
    return 1e-4 if dtype == torch.float32 else 6e-2


def _chain_layers(model: TargetModel) -> list[ChainLayer]:
    """What each layer keeps; empty where there is something else."""
    try:
        cache = model.own_cache()
    except REFUSALS as error:
        logger.info("cache_probe_failed error=%s", error)
        return []
    if not isinstance(cache, Cache) or any(type(la) not in KNOWN_LAYERS for la in cache.layers):
        return []
    layers = [ChainLayer(_rows(layer), _states(layer)) for layer in cache.layers]
    return layers if any(layer.states for layer in layers) else []


def _rows(layer: Any) -> LayerShape | None:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None:
        return None
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[3])


def _states(layer: Any) -> tuple[StateShape, ...]:
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return ()
    return tuple(
        StateShape(kind, index, tuple(state.shape), state.dtype)
        for kind in ("conv_states", "recurrent_states")
        for index, state in getattr(layer, kind).items()
        if state is not None
    )


def _ways(hf: PreTrainedModel, layers: list[ChainLayer]) -> Iterator[ChainWay]:
    """From the best to the slowest."""
    has_rows = any(layer.rows is not None for layer in layers)
    config = hf.config.get_text_config()
    has_windows = any("sliding" in kind for kind in getattr(config, "layer_types", None) or ())
    masks = Masks(has_windows, config.sliding_window if has_windows else None)
    for is_packed in (True, False) if hf._can_set_attn_implementation() else (False,):
        # A model's own attention knows no cached rows of different numbers in one pass.
        for is_joined in (True, False) if is_packed or not has_rows else (False,):
            for is_never_alone in (False, True):
                yield ChainWay(masks, is_packed, is_never_alone, is_joined)


def _try_way(model: TargetModel, layers: list[ChainLayer], way: ChainWay) -> float:
    """Largest difference from the stock logits, relative to their size; inf on an exception."""
    try:
        model.use_chains(layers, way, num_slots=len(PROMPTS), capacity=32)
        return _chain_error(model)
    except REFUSALS as error:
        logger.info("model_form_failed form=CHAIN error=%s", error)
        return float("inf")


def _chain_error(model: TargetModel) -> float:
    slots = [model.slots.allocate() for _ in PROMPTS]
    texts = [list(prompt) for prompt in PROMPTS]
    for slot, text in zip(slots, texts, strict=True):
        for run in (text[:-1], text[-1:]):
            model.forward(
                [prompt_segment(slot, model.slots.length(slot), tuple(run), is_last=False)]
            )
            model.commit(slot, list(range(len(run))))
    errors = []
    for root, drafted, num_right in STEPS:
        drafts = (drafted, (), drafted)
        logits = model.forward(
            [
                draft_segment(slot, model.slots.length(slot), root, chain(draft))
                for slot, draft in zip(slots, drafts, strict=True)
            ]
        )
        expected = torch.cat(
            [
                _stock_rows(model, [*text, root, *draft], 1 + len(draft))
                for text, draft in zip(texts, drafts, strict=True)
            ]
        )
        errors.append(float((logits - expected).abs().max() / expected.abs().max()))
        right = (drafted[:num_right], (), drafted[:num_right])
        for slot, text, kept in zip(slots, texts, right, strict=True):
            model.commit(slot, list(range(1 + len(kept))))
            text += [root, *kept]
    return max(errors) if all(e == e for e in errors) else float("inf")


def _check_bits(
    model: TargetModel, layers: list[ChainLayer], way: ChainWay, findings: Findings | None
) -> ChainWay:
    """Check the way; chains are joined unless rows are bitwise without it and not with it."""
    apart = replace(way, is_joined=False)
    for each in dict.fromkeys((way, apart)):
        sizes = {"num_slots": invariance.NUM_SLOTS, "capacity": invariance.CAPACITY}
        model.use_chains(layers, each, **sizes)
        invariance.check_bits(model, findings)
        if model.bitwise:
            return each
    return way


def _stock_rows(model: TargetModel, token_ids: list[int], num_rows: int) -> Tensor:
    return model.stock_logits(token_ids)[-num_rows:]
