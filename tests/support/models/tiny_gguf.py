"""Writes a GGUF file of a Llama with random weights and a few dozen tokens."""

from pathlib import Path

import gguf
import numpy as np

HIDDEN, INNER, HEADS, LAYERS = 32, 64, 4, 2
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "a", "b", "ab", "▁a", "▁ab"]
TOKENS = SPECIAL + BYTES + WORDS


def write_gguf(path: Path, *, eot: int | None = None, eom: int | None = None) -> Path:
    """Write the file and return its path; `eot`, `eom`: what ends a turn and a message."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    _add_tokenizer(writer)
    if eot is not None:
        writer.add_eot_token_id(eot)
    if eom is not None:
        writer.add_eom_token_id(eom)
    for name, shape in _shapes().items():
        rng = np.random.default_rng(len(name))
        writer.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    kinds = [2, 3, 3] + [6] * len(BYTES) + [1] * len(WORDS)  # unknown, control, byte, normal
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores(
        [0.0] * (len(TOKENS) - len(WORDS)) + [-float(i) for i in range(len(WORDS))]
    )
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN, HIDDEN)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"{prefix}.{name}.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}.ffn_down.weight"] = (HIDDEN, INNER)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN,)
    return shapes
