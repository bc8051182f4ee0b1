"""Loads the weights of a model: where from, to which device, in which number format."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig


def load_weights(name: str, *, device: str, dtype: str, num_processes: int = 1) -> PreTrainedModel:
    """Load a local path or a hub id; safetensors only, no remote code.

    Of several processes that have met, each loads its share.
    """
    where = torch.device(_device(device))
    options: dict[str, Any] = {
        "dtype": _dtype(dtype, where),
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if Path(name).suffix == ".gguf":
        raise OSError(f"{name}: `lookahead verifier` and `lookahead serve` convert such files")
    if num_processes > 1:
        options["distributed_config"] = DistributedConfig(tp_size=num_processes)
    model: Any = AutoModelForCausalLM.from_pretrained(name, **options)
    loaded: PreTrainedModel = model.eval() if num_processes > 1 else model.eval().to(where)
    return loaded


def model_config(name: str) -> PreTrainedConfig:
    """The configuration alone, without the weights."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return config


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """`auto`: the checkpoint's own format on an accelerator; float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[dtype]
