"""Models of real shapes with random weights, built where they run: nothing is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

# Output layers of their own for all, so that what they say can be scaled.
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}
QWEN_06B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": False,
}
TINY: dict[str, Any] = LLAMA_8B | {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
SHAPES = {"8b": LLAMA_8B, "0.6b": QWEN_06B, "tiny": TINY}
# About what a trained model's best token reaches. Random weights say little: near ties everywhere.
LARGEST_LOGIT = 20.0
NUM_PROBED = 64


@dataclass(frozen=True, slots=True)
class Sharpness:
    """How sure a model is of its next tokens."""

    median_lead: float  # of the best logit over the second
    largest_logit: float


def build(shape: str, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of the shape with the same random weights each time, its output layer scaled."""
    model = random_model(SHAPES[shape], dtype=dtype, device=device)
    largest = float(_some_logits(model).max())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(LARGEST_LOGIT / largest)
    return model


def random_model(
    config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """A model by its configuration; `model_type` is one of its fields."""
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), dtype=dtype
        )
    model.eval()
    return model


def sharpness(model: PreTrainedModel) -> Sharpness:
    """Measured on some tokens, as the stock model says them."""
    best = _some_logits(model).topk(2).values
    lead = float((best[:, 0] - best[:, 1]).median())
    return Sharpness(median_lead=lead, largest_logit=float(best.max()))


@torch.inference_mode()
def _some_logits(model: PreTrainedModel) -> Tensor:  # [NUM_PROBED, vocabulary]
    ids = torch.arange(2, 2 + NUM_PROBED, device=model.device)[None]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


def num_bytes(model: PreTrainedModel) -> int:
    """Of all weights."""
    return sum(weight.nbytes for weight in model.parameters())


def read_bytes(model: PreTrainedModel) -> int:
    """What a step reads of them: of the embeddings a row or a few."""
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    return num_bytes(model) - embeddings.nbytes
