"""Nothing is left on the wrong device, as a model on `meta` finds out; and what a GPU needs."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from verifier.cache.slot_layers import LayerShape
from verifier.model import attention
from verifier.model.batch import Segment, draft_segment, prompt_segment, scored_segment
from verifier.model.measurements import row_counts
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.placing import Masks
from verifier.speculation.budget import GPU_ROW_COUNTS, ROW_COUNTS
from verifier.speculation.tree import DraftTree

TREE = DraftTree((3, 4, 5), (-1, 0, 0), (1.0, 0.9, 0.8))
LONG = (1,) * 80


def meta_model(form: VerificationMode, window: int | None = None) -> TargetModel:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    attention.register()
    with torch.device("meta"):
        hf = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    model = TargetModel(hf, "meta", max_context=1024)
    shapes = [LayerShape(2, 16, 16)] * 2
    model.use_slots(form, shapes, Masks(False, window), num_slots=4, capacity=1100)
    return model


class SameDevice(TorchDispatchMode):
    """Fails on a computation that mixes devices; copies to the device are the way there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kinds = {a.device.type for a in args if isinstance(a, Tensor) and a.dim()}
        assert len(kinds) < 2 or "copy" in func.__name__, f"{func} mixes {kinds}"
        return func(*args, **(kwargs or {}))


PASSES: dict[str, list[Segment]] = {
    "one stream": [draft_segment(0, 10, 7, TREE)],
    "many streams": [draft_segment(0, 10, 7, TREE), draft_segment(2, 90, 7, TREE)],
    "the middle of a prompt": [prompt_segment(1, 0, LONG, is_last=False)],
    "the middle of a prompt beside a stream": [
        prompt_segment(1, 0, LONG, is_last=False),
        draft_segment(0, 10, 7, TREE),
    ],
    "a scored prompt": [scored_segment(3, 0, LONG)],
}


@pytest.mark.parametrize("form", [VerificationMode.PACKED, VerificationMode.SINGLE])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", PASSES)
def test_every_kind_of_pass_stays_on_the_device(
    form: VerificationMode, window: int | None, name: str
) -> None:
    model = meta_model(form, window)
    segments = PASSES[name]
    with SameDevice():
        logits = model.forward(segments)
        for segment in segments:
            model.commit(segment.slot, [0, 2] if segment.tree else [*range(segment.num_rows)])
    assert logits.device.type == "meta"
    assert logits.shape == (sum(s.num_logit_rows for s in segments), 64)
    assert logits.dtype == torch.float32


def test_shared_rows_are_copied_on_the_device() -> None:
    model = meta_model(VerificationMode.PACKED)
    slots = model.slots
    slots.reserve(0, 80)
    with SameDevice():
        slots.share(1, slots.table(0), 70)  # type: ignore[union-attr]
    assert slots.length(1) == 70


def test_passes_of_many_rows_are_measured_where_they_cost_little() -> None:
    model = meta_model(VerificationMode.PACKED)
    assert row_counts(model) == GPU_ROW_COUNTS
    model.max_context = 300
    assert row_counts(model) == tuple(n for n in GPU_ROW_COUNTS if n <= 300 - 64)
    model.device = torch.device("cpu")
    assert row_counts(model) == ROW_COUNTS


def test_attention_does_not_plan_anew_for_each_length() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    attention.register()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
