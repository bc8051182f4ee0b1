"""The probe: find the strongest form in which a model is right, by trying, not by its name.

Two small sequences are run as a packed tree step and compared with uncached passes of the model
as transformers ships it. What does not agree is not used.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from verifier.cache.memory import allowed_bytes, fitting_size
from verifier.cache.placement import Kernel
from verifier.cache.slot_layers import LayerShape
from verifier.model import attention, invariance
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.chain_probe import choose_chains, tolerance
from verifier.model.findings import Findings, key_of
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.placing import Masks
from verifier.speculation.tree import DraftTree

logger = logging.getLogger(__name__)

# Frequencies chosen from the longest position in a pass would let sequences disturb each other.
LENGTH_DEPENDENT_ROPE = ("longrope", "dynamic")
USUAL_CONTEXT = 4096  # of a model that names none
PROBE_TREE = DraftTree((3, 4, 5, 6), (-1, -1, 1, 1), (1.0, 0.9, 0.8, 0.7))
PROBE_PATH = [0, 2, 4]  # the root's row and the rows of nodes 1 and 3: not contiguous


def choose_form(
    model: TargetModel,
    hf: PreTrainedModel,
    *,
    num_slots: int,
    draft_rows: int,
    kv_memory: str = "auto",
    may_shrink: bool = False,
    findings: Findings | None = None,
) -> None:
    """Set the model up in the strongest form that works.

    It gets pages for `num_slots` sequences, or as many as fit into `kv_memory`, a size or `auto`;
    KVMemoryError when one sequence does not fit. `may_shrink`: then its context is made shorter.
    `findings`: what is known of its bits.
    """
    attention.register()
    reason = _why_plain(hf, model.max_context)
    shapes = [] if reason or hf._is_stateful else _layer_shapes(model)
    if not reason and not shapes:
        reason = choose_chains(
            model,
            hf,
            num_slots=num_slots,
            draft_rows=draft_rows,
            kv_memory=kv_memory,
            may_shrink=may_shrink,
            findings=findings,
        )
        if not reason:
            return
    capacity = model.max_context + draft_rows
    for form, masks in [] if reason else list(_candidates(hf, model.kernel)):
        error = _known_error(model, form, shapes, masks, findings)
        if error <= tolerance(model.dtype):
            size = fitting_size(
                shapes,
                num_slots=num_slots,
                capacity=capacity,
                item_size=model.dtype.itemsize,
                allowed=allowed_bytes(kv_memory, model.device),
                may_shrink=may_shrink,
            )
            model.max_context = size.capacity - draft_rows
            checked = {"num_slots": invariance.NUM_SLOTS, "capacity": invariance.CAPACITY}
            model.use_slots(form, shapes, masks, **checked)
            invariance.check_bits(model, findings)
            model.use_slots(form, shapes, masks, **asdict(size))
            logger.info(
                "model_form form=%s masks=%s error=%.2g slots=%d pages=%d bitwise=%s",
                form.name,
                masks,
                error,
                size.num_slots,
                size.num_pages,
                model.bitwise,
            )
            return
        logger.info("model_form_rejected form=%s masks=%s error=%.2g", form.name, masks, error)
    model.use_plain(num_slots, reason or "a tree step does not reproduce its logits")
    # Each sequence has passes of its own, which nothing else changes.
    model.bitwise, model.not_bitwise_reason = True, ""
    logger.info("model_form form=PLAIN reason=%s", model.reason)


def own_context(config: PreTrainedConfig) -> int:
    """Positions that a model was made for; up to where its rotary frequencies stay the same."""
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None) or USUAL_CONTEXT
    borders = [border for _, border in _borders(text) if border]
    return min([own, *borders])


def _borders(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """Rotary embeddings whose frequencies depend on the longest position, and from which one."""
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in (rope, *(r for r in rope.values() if isinstance(r, dict))):
        if kind.get("rope_type") in LENGTH_DEPENDENT_ROPE:
            name = "original_max_position_embeddings"
            yield kind["rope_type"], kind.get(name) or getattr(config, name, None) or 0


def _why_plain(hf: PreTrainedModel, max_context: int) -> str:
    config = hf.config.get_text_config()
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "it has chunked attention layers"
    for kind, border in _borders(config):
        if max_context > border:
            return f"its {kind} rotary frequencies depend on the longest position"
    return ""


def _layer_shapes(model: TargetModel) -> list[LayerShape]:
    """Shapes of the keys and values that a short pass leaves in a cache; empty if not such."""
    try:
        cache = model.short_cache()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        logger.info("cache_probe_failed error=%s", error)
        return []
    layers = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    if len(layers) != len(cache.layers) or any(layer.keys is None for layer in layers):
        return []
    return [
        LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3])
        for layer in layers
        if layer.keys is not None and layer.values is not None
    ]


def _candidates(hf: PreTrainedModel, kernel: Kernel) -> Iterator[tuple[VerificationMode, Masks]]:
    config = hf.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if layer_types and "sliding_attention" not in layer_types:
        window = None
    by_type = Masks(True, window)
    single = Masks(False, window)
    masks = [by_type, single] if layer_types else [single]
    if len(layer_types) > 1:
        masks = [by_type]  # one mask cannot serve two kinds of layers
    forms = [VerificationMode.PACKED] if hf._can_set_attn_implementation() else []
    if kernel is not Kernel.TILED:
        forms.append(VerificationMode.SINGLE)
    for form in forms:
        yield from ((form, mask) for mask in masks)


def _known_error(
    model: TargetModel,
    form: VerificationMode,
    shapes: list[LayerShape],
    masks: Masks,
    findings: Findings | None,
) -> float:
    """The error of a form, as is known of it on this machine or is found out now."""
    model.use_slots(form, shapes, masks, num_slots=1, capacity=1)
    key = key_of(model)
    known = findings.get(key).get("error") if findings else None
    if isinstance(known, float):
        return known
    error = _try_form(model, form, shapes, masks)
    if findings and error <= tolerance(
        model.dtype
    ):  # what failed may have failed for another reason
        findings.put(key, error=error)
    return error


def _try_form(
    model: TargetModel, form: VerificationMode, shapes: list[LayerShape], masks: Masks
) -> float:
    """Largest difference from the stock logits, relative to their size; inf on an exception."""
    try:
        # What is wrong is so for all words. A few words round badly: then others are tried.
        for step in (1, model.vocabulary_size // 8, model.vocabulary_size // 13 + 1):
            model.use_slots(form, shapes, masks, num_slots=2, capacity=24)
            error = _tree_error(model, step)
            if error <= tolerance(model.dtype):
                break
        return error
    except torch.AcceleratorError:
        raise  # the device answers nothing any more
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        logger.info("model_form_failed form=%s error=%s", form.name, error)
        return float("inf")


def _tree_error(model: TargetModel, step: int) -> float:
    """The error on words whose ids are small numbers, times `step`."""

    def words(*numbers: int) -> list[int]:
        return [number * step % model.vocabulary_size for number in numbers]

    first, second = words(1, 2, 3, 2, 5), words(2, 4, 1)
    tree = replace(PROBE_TREE, token_ids=tuple(words(*PROBE_TREE.token_ids)))
    slots = [model.slots.allocate(), model.slots.allocate()]
    for slot, tokens in zip(slots, (first, second), strict=True):
        model.forward([prompt_segment(slot, 0, tuple(tokens[:-1]), is_last=True)])
        model.commit(slot, list(range(len(tokens) - 1)))
    errors = []
    for root_a, root_b in ((first[-1], second[-1]), words(7, 1)):
        logits = model.forward(
            [
                draft_segment(slots[0], model.slots.length(slots[0]), root_a, tree),
                prompt_segment(slots[1], model.slots.length(slots[1]), (root_b,), is_last=True),
            ]
        )
        paths = [words(), words(3), words(4), words(4, 5), words(4, 6)]
        stock = [model.stock_logits(first + path)[-1] for path in paths]
        stock.append(model.stock_logits(second)[-1])
        expected = torch.stack(stock)
        errors.append(float((logits - expected).abs().max() / expected.abs().max()))
        model.commit(slots[0], PROBE_PATH)
        model.commit(slots[1], [0])
        first += words(4, 6, 7)
        second += words(1)
    return max(errors) if all(e == e for e in errors) else float("inf")
