"""How many full-length slots the KV cache may have: what memory allows, and no more than asked for.

Admission follows from it: a sequence runs only where a slot is free for its whole length.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from rpc.units import gib
from verifier.cache.kv_cache import LayerShape
from verifier.config import parse_size

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
    shapes: Sequence[LayerShape],
    *,
    capacity: int,
    item_size: int,
    wanted: int,
    allowed: int,
    state_bytes: int = 0,
) -> int:
    """Slots of `capacity` rows that fit into `allowed` bytes, at most `wanted`.

    `state_bytes`: what a slot takes beside its rows.
    """
    row_bytes = sum(s.num_heads * (s.key_dim + s.value_dim) for s in shapes) * item_size
    slot_bytes = row_bytes * capacity + state_bytes
    fitting = allowed // slot_bytes
    if not fitting:
        raise KVMemoryError(
            f"the KV cache of one sequence takes {gib(slot_bytes)} ({capacity} tokens "
            f"of {row_bytes} bytes{_and_states(state_bytes)}), and kv_memory allows {gib(allowed)}"
            + _what_fits(allowed - state_bytes, row_bytes)
        )
    return min(wanted, fitting)


def _and_states(state_bytes: int) -> str:
    return f" and {gib(state_bytes)} for the states" if state_bytes else ""


def _what_fits(allowed: int, row_bytes: int) -> str:
    if not row_bytes or allowed < row_bytes:
        return ""
    return f": max_context up to {allowed // row_bytes} would fit"


CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken; on a CPU no more than the control group allows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(), _group_room(CGROUP))


def _available() -> int:
    """What the kernel would give without swapping, caches that it can drop included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_room(group: Path) -> int:
    try:
        limit = int((group / "memory.max").read_text())
        return max(limit - int((group / "memory.current").read_text()), 0)
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return 2**63
