"""The judge: small random models of many families, and what transformers' own generate says."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY_SIZE = 64
SHAPE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
NO_HEAD_DIM = {k: v for k, v in SHAPE.items() if k != "head_dim"}
GPT2_SHAPE = {
    "vocab_size": VOCABULARY_SIZE,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "moe_intermediate_size": 32,
}
WINDOW = {"sliding_window": 8}


@dataclass(frozen=True)
class Family:
    """A model type and how to make a small one."""

    model_type: str
    shape: dict[str, Any] = field(default_factory=lambda: dict(SHAPE))
    # Whether generate may use the cache: some models round otherwise, or err, one token at a time.
    may_cache: bool = True

    def build(self, seed: int = 0) -> PreTrainedModel:
        """A model with random weights."""
        torch.manual_seed(seed)
        config = AutoConfig.for_model(self.model_type, **self.shape)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.eval()
        return model


LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,
    "shared_expert_intermediate_size": 32,
}
MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_expand": 2,
}
CONVOLUTIONS = {"layer_types": ["conv", "full_attention", "conv"]}
BLOCKS = {
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "ssm_state_size": 16,
    "n_groups": 1,
    "chunk_size": 16,
}
SHARED_BLOCKS = {
    "mamba_d_state": 16,
    "mamba_headdim": 32,
    "n_mamba_heads": 4,
    "mamba_ngroups": 1,
    "chunk_size": 16,
    "layers_block_type": ["mamba", "hybrid", "mamba"],
    "num_mem_blocks": 1,
    "attention_hidden_size": 128,
    "attention_head_dim": 32,
    "use_mem_rope": True,
    "adapter_rank": 8,
}
STATES_ALONE = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 64, "num_hidden_layers": 3}
STATEFUL = [
    Family("qwen3_next", SHAPE | EXPERTS | LINEAR, may_cache=False),
    Family("qwen3_5_text", SHAPE | LINEAR, may_cache=False),
    Family("qwen3_5_moe_text", SHAPE | EXPERTS | LINEAR, may_cache=False),
    Family("olmo_hybrid", SHAPE | LINEAR, may_cache=False),
    Family("lfm2", SHAPE | CONVOLUTIONS, may_cache=False),
    Family("lfm2_moe", SHAPE | EXPERTS | CONVOLUTIONS | {"num_dense_layers": 1}, may_cache=False),
    Family("lfm3", SHAPE | EXPERTS | {"num_hidden_layers": 4}, may_cache=False),
    Family("falcon_h1", NO_HEAD_DIM | MAMBA | {"mamba_d_ssm": 128}, may_cache=False),
    Family(
        "granitemoehybrid",
        NO_HEAD_DIM
        | EXPERTS
        | MAMBA
        | {
            "layer_types": ["mamba", "attention", "mamba"],
            "shared_intermediate_size": 64,
            "position_embedding_type": "rope",
        },
        may_cache=False,
    ),
    Family("bamba", NO_HEAD_DIM | MAMBA | {"attn_layer_indices": [1]}, may_cache=False),
    Family(
        "nemotron_h",
        SHAPE | BLOCKS | {"layers_block_type": ["mamba", "attention", "mamba", "mlp"]},
        may_cache=False,
    ),
    Family("zamba2", NO_HEAD_DIM | SHARED_BLOCKS, may_cache=False),
    Family(
        "mamba2",
        STATES_ALONE
        | {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1, "chunk_size": 16},
        may_cache=False,
    ),
    Family(
        "jamba",
        NO_HEAD_DIM
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    Family("mamba", STATES_ALONE),
]
FAMILIES = [
    Family("llama"),
    Family("qwen2"),
    Family("qwen3"),
    Family("qwen3_moe", SHAPE | EXPERTS),
    Family("mixtral", SHAPE | EXPERTS),
    Family("gemma"),
    Family("gemma2", SHAPE | WINDOW),
    Family("gemma3_text", SHAPE | WINDOW),
    Family("mistral", SHAPE | WINDOW),
    Family("phi", NO_HEAD_DIM),
    Family("phi3", NO_HEAD_DIM | WINDOW),
    Family("gpt2", GPT2_SHAPE),
    Family("gpt_bigcode", GPT2_SHAPE),
    Family("gpt_neox", NO_HEAD_DIM),
    Family("opt", NO_HEAD_DIM | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    Family("falcon", {"alibi": False, "multi_query": True} | NO_HEAD_DIM),
    Family("stablelm", NO_HEAD_DIM),
    Family("starcoder2", NO_HEAD_DIM | WINDOW),
    Family("olmo2", NO_HEAD_DIM),
    Family("olmoe", NO_HEAD_DIM | EXPERTS),
    Family("granite", NO_HEAD_DIM),
    Family("cohere", NO_HEAD_DIM),
    Family("cohere2", NO_HEAD_DIM | WINDOW),
    Family("gpt_oss", SHAPE | EXPERTS | WINDOW),
    Family("smollm3", NO_HEAD_DIM),
    Family("glm4", SHAPE),
    Family("nemotron", NO_HEAD_DIM),
    Family("bloom", {"vocab_size": VOCABULARY_SIZE, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    *STATEFUL,
]


def family(model_type: str) -> Family:
    """The one of FAMILIES with this model type."""
    return next(f for f in FAMILIES if f.model_type == model_type)


def generate(
    model: PreTrainedModel,
    prompt: list[int],
    num_tokens: int,
    eos_token_ids: list[int],
    *,
    may_cache: bool = True,
) -> list[int]:
    """Greedy output ids of transformers' generate, the ending id included."""
    eos = eos_token_ids or None
    return _greedy(model, prompt, num_tokens, eos_token_id=eos, pad_token_id=0, use_cache=may_cache)


def generate_to_its_end(model: PreTrainedModel, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy output ids of transformers' generate, ended where the model's own settings say so."""
    return _greedy(model, prompt, num_tokens, top_k=None, top_p=None)


def _greedy(model: Any, prompt: list[int], num_tokens: int, **settings: Any) -> list[int]:
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=num_tokens,
            do_sample=False,
            **settings,
        )
    ids: list[int] = output[0, len(prompt) :].tolist()
    return ids
