"""The ladder: the fastest way to run a model that is right on this machine, found by trying.

On a GPU the kernels in Triton come first, compiled and captured, then captured, then launched one
by one. What raises, gives other logits, or changes a row's bits is not used, and the log says why.
Below the last rung stand torch's own kernels with a mask.
"""

import logging
from typing import Any

import torch
from transformers import PreTrainedModel

from verifier.cache.placement import Kernel
from verifier.model.findings import Findings, key_of
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.probe import choose_form
from verifier.model.rung import Rung, Tools

logger = logging.getLogger(__name__)

# Starts that may die on a rung before it is left out: a lost device takes the process along.
MAX_TRIES = 2
RUNGS = {"auto": tuple(Rung), "captured": (Rung.CAPTURED, Rung.EAGER), "off": (Rung.EAGER,)}


def choose_way(
    model: TargetModel,
    hf: PreTrainedModel,
    *,
    graphs: str,
    findings: Findings | None = None,
    tools: Tools | None = None,
    **sizes: Any,
) -> None:
    """Set the model up in the strongest form and the fastest way that work.

    `graphs`: a key of RUNGS. `sizes`: as `choose_form` takes them.
    """
    if model.kernel is Kernel.TILED:
        reason = _climb(model, hf, RUNGS[graphs], tools or Tools(), findings, sizes)
        if not reason:
            logger.info("model_passes attention=tiled launched=%r", model.rung.value)
            return
        logger.warning("attention_fell_back to=masked reason=%r", reason)
        model.use_rung(Rung.EAGER, Tools())
        model.use_kernel(Kernel.MASKED, reason)
    choose_form(model, hf, findings=findings, **sizes)


def _climb(
    model: TargetModel,
    hf: PreTrainedModel,
    rungs: tuple[Rung, ...],
    tools: Tools,
    findings: Findings | None,
    sizes: dict[str, Any],
) -> str:
    """Stand on the first rung that holds; return why none does."""
    reason = ""
    for rung in rungs:
        try:
            model.use_rung(rung, tools, reason)
            reason = _why_not(model, hf, findings, sizes)
        except torch.AcceleratorError:
            raise  # nothing on this device works any more; the next start leaves this rung out
        except Exception as error:  # whatever a compiler or a driver may raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if not reason:
            return ""
        reason = f"{rung.value}: {reason}"
        logger.warning("rung_left_out reason=%r", reason)
    return reason


def _why_not(
    model: TargetModel, hf: PreTrainedModel, findings: Findings | None, sizes: dict[str, Any]
) -> str:
    """Set the model up on its rung; return why it is not right there."""
    if findings is None:
        return _set_up(model, hf, None, sizes)
    key = f"{key_of(model)} tries"
    tries = findings.get(key).get("tries", 0)
    if isinstance(tries, int) and tries >= MAX_TRIES:
        return "earlier starts did not survive it"
    findings.put(key, tries=tries + 1)
    try:
        return _set_up(model, hf, findings, sizes)
    except torch.AcceleratorError:
        tries = MAX_TRIES
        raise
    finally:
        findings.put(key, tries=tries)


def _set_up(
    model: TargetModel, hf: PreTrainedModel, findings: Findings | None, sizes: dict[str, Any]
) -> str:
    choose_form(model, hf, findings=findings, **sizes)
    if model.form is not VerificationMode.PACKED:
        return model.reason or f"the model is served with {model.form.value}"
    if model.bitwise:
        model.prepare()
    return model.not_bitwise_reason
