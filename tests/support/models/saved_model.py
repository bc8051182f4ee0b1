"""A small model with random weights as a directory, as a server process loads it."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.models.small_tokenizers import small_tokenizer


def save_small_model(path: Path) -> None:
    """Write it; the same one every time."""
    tokenizer = small_tokenizer("byte_level")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer._backend.save_pretrained(path)
