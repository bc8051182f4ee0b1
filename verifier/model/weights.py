"""Loads the weights of a model: where from, to which device, in which number format."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

# Scales and packed values of quantised layers: without a quantiser they would be left out.
QUANTISED = (".weight_scale", ".weight_scale_inv", ".scales", ".qweight", ".qzeros")
MAX_NAMED = 3


class CheckpointError(ValueError):
    """The checkpoint is not that of the model that its configuration names."""


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
    load: Any = AutoModelForCausalLM.from_pretrained
    model, found = load(name, output_loading_info=True, **options)
    check_complete(name, found["missing_keys"], found["unexpected_keys"])
    loaded: PreTrainedModel = model.eval() if num_processes > 1 else model.eval().to(where)
    return loaded


def check_complete(name: str, missing: Collection[str], unknown: Collection[str]) -> None:
    """Raise CheckpointError where tensors were made up, or scales left out."""
    if missing:
        raise CheckpointError(f"{name} lacks {_named(missing)}")
    if left_out := [tensor for tensor in unknown if tensor.endswith(QUANTISED)]:
        problem = "is quantised, but its configuration names no quantiser that takes"
        raise CheckpointError(f"{name} {problem} {_named(left_out)}")


def _named(tensors: Collection[str]) -> str:
    first, more = sorted(tensors)[:MAX_NAMED], len(tensors) - MAX_NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


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
