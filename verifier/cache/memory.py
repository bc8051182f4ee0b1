"""How large the KV cache is: as many pages as memory allows, and no more than could be used.

At least one sequence of full length has room. Others are admitted as long as there are pages.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rpc.units import gib
from verifier.cache.pages import PAGE, num_pages_of
from verifier.cache.slot_layers import LayerShape
from verifier.config import parse_size

# Of the memory that is free once the weights are loaded; the rest is for activations and others.
AUTO_SHARE = {"cpu": 0.5, "cuda": 0.85}
MIN_CAPACITY = 8 * PAGE  # rows; what fits in less memory is refused


class KVMemoryError(ValueError):
    """Not even one sequence fits; says what it takes and what there is."""


@dataclass(frozen=True, slots=True)
class CacheSize:
    """What the cache is made of."""

    num_slots: int
    num_pages: int
    capacity: int  # rows that a sequence may have


def allowed_bytes(setting: str, device: torch.device) -> int:
    """What the cache may take: a size, or `auto`, a share of the memory that is free now."""
    if setting != "auto":
        return parse_size(setting)
    return int(AUTO_SHARE[device.type] * free_bytes(device))


def fitting_size(
    shapes: Sequence[LayerShape],
    *,
    num_slots: int,
    capacity: int,
    item_size: int,
    allowed: int,
    state_bytes: int = 0,
    may_shrink: bool = False,
) -> CacheSize:
    """The cache for `num_slots` sequences of `capacity` rows, or what of it fits.

    `state_bytes`: what a slot takes beside its rows. `may_shrink`: a sequence may be shorter.
    """
    row_bytes = sum(s.num_heads * (s.key_dim + s.value_dim) for s in shapes) * item_size
    page_bytes = PAGE * row_bytes
    room = (allowed - state_bytes) // page_bytes if row_bytes else num_slots * capacity
    if may_shrink and room * PAGE >= MIN_CAPACITY:
        capacity = min(capacity, room * PAGE)
    longest = num_pages_of(capacity)
    if room < longest or allowed < state_bytes:
        raise KVMemoryError(
            f"the KV cache of one sequence takes {gib(longest * page_bytes + state_bytes)} "
            f"({capacity} tokens of {row_bytes} bytes{_and_states(state_bytes)}), "
            f"and kv_memory allows {gib(allowed)}{_what_fits(room)}"
        )
    left = allowed - state_bytes - longest * page_bytes
    each = state_bytes + page_bytes  # what another sequence takes at least
    num_slots = min(num_slots, 1 + left // each if each else num_slots)
    wanted = num_slots * longest
    fitting = (allowed - num_slots * state_bytes) // page_bytes if row_bytes else wanted
    return CacheSize(num_slots, min(wanted, fitting), capacity)


def _and_states(state_bytes: int) -> str:
    return f" and {gib(state_bytes)} for the states" if state_bytes else ""


def _what_fits(num_pages: int) -> str:
    return f": max_context up to {num_pages * PAGE} would fit" if num_pages > 0 else ""


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
