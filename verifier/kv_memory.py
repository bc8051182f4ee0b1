"""How many full-length slots the KV cache may have: what memory allows, and no more than asked for.

Admission follows from it: a sequence runs only where a slot is free for its whole length.
"""

from collections.abc import Sequence

import torch

from verifier.free_memory import free_bytes
from verifier.kv_cache import LayerShape
from verifier.sizes import parse_size

# Of the memory that is free once the weights are loaded; the rest is for activations and others.
AUTO_SHARE = {"cpu": 0.5, "cuda": 0.85}


class KVMemoryError(ValueError):
    """Not even one sequence fits; says what it takes and what there is."""


def allowed_bytes(setting: str, device: torch.device) -> int:
    """What the cache may take: a size, or `auto`, a share of the memory that is free now."""
    if setting != "auto":
        return parse_size(setting)
    return int(AUTO_SHARE[device.type] * free_bytes(device))


def fitting_slots(
    shapes: Sequence[LayerShape], *, capacity: int, item_size: int, wanted: int, allowed: int
) -> int:
    """Slots of `capacity` rows that fit into `allowed` bytes, at most `wanted`."""
    row_bytes = sum(s.num_heads * (s.key_dim + s.value_dim) for s in shapes) * item_size
    fitting = allowed // (row_bytes * capacity)
    if not fitting:
        raise KVMemoryError(
            f"the KV cache of one sequence takes {_gib(row_bytes * capacity)} ({capacity} tokens "
            f"of {row_bytes} bytes), and kv_memory allows {_gib(allowed)}: "
            f"max_context up to {allowed // row_bytes} would fit"
        )
    return min(wanted, fitting)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
