"""Small models with random weights, saved as checkpoints: endless text that no one has read."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 512
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,  # wide enough that outputs do not repeat themselves
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": SHAPE
    | {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    },
    "falcon_h1": {k: v for k, v in SHAPE.items() if k != "head_dim"}
    | {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16}
    | {"mamba_n_groups": 1, "mamba_chunk_size": 16},
    "lfm2": SHAPE | {"layer_types": ["conv", "conv", "full_attention", "conv"]},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "qwen3": SHAPE,
    "gemma2": SHAPE | {"sliding_window": 32},  # caps its logits
    "gemma3_text": SHAPE | {"sliding_window": 32},
    "mixtral": SHAPE | EXPERTS | {"sliding_window": None},
    "gpt_oss": SHAPE | EXPERTS | {"sliding_window": 32},  # sinks
    "cohere2": SHAPE | {"sliding_window": 32},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 128,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 1024,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    },
}


def save_family(name: str, directory: Path) -> str:
    """The path of a checkpoint, made just now."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(FAMILIES | HYBRIDS)[name])
    model: Any = AutoModelForCausalLM.from_config(config)
    path = directory / name
    model.save_pretrained(path)
    return str(path)
