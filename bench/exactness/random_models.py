"""Small models with random weights, saved as checkpoints: endless text that no one has read."""

from collections.abc import Iterator
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
    # Wide enough that choices are seldom near ties.
    "initializer_range": 0.2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "qwen3": SHAPE,
    "gemma3_text": SHAPE | {"sliding_window": 32},
    "mixtral": SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
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


def save_all(directory: Path) -> Iterator[tuple[str, str]]:
    """Each family's name and the path of its checkpoint, made when it is asked for."""
    for seed, (family, shape) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **shape)
        model: Any = AutoModelForCausalLM.from_config(config)
        path = directory / family
        model.save_pretrained(path)
        yield family, str(path)
