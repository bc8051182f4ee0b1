"""Slots for models whose state cannot be rolled back: each sequence keeps the model's own cache."""

from typing import Any

from transformers import DynamicCache, PreTrainedConfig


class StatefulSlots:
    """The same surface as `KVCache`, without drafts."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))
        self._caches: dict[int, Any] = {}
        self._lengths = [0] * num_slots

    @property
    def num_free(self) -> int:
        """Slots that no sequence holds."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a free slot."""
        assert self._free, "allocate without a free slot"
        slot = self._free.pop(0)
        self._lengths[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back; its cache is dropped."""
        assert slot not in self._free, f"slot {slot} is free already"
        self._caches.pop(slot, None)
        self._free.append(slot)

    def reserve(self, slot: int, num_rows: int) -> bool:
        """A cache of its own grows as it must."""
        return True

    def length(self, slot: int) -> int:
        """Rows the slot's cache holds."""
        return self._lengths[slot]

    def num_pending(self, slot: int) -> int:
        """Nothing is run again."""
        return 0

    def commit(self, slot: int, rows: list[int]) -> None:
        """Nothing moves: without drafts every row is kept."""
        self._lengths[slot] += len(rows)

    def cache(self, slot: int, config: PreTrainedConfig) -> Any:
        """The slot's cache, made by the model's configuration on first use."""
        if slot not in self._caches:
            self._caches[slot] = DynamicCache(config=config)
        return self._caches[slot]

    def keep(self, slot: int, output: Any, num_rows: int) -> None:
        """Remember the state that a forward pass returned under whatever name it uses."""
        for name in ("past_key_values", "cache_params", "state"):
            if getattr(output, name, None) is not None:
                self._caches[slot] = getattr(output, name)
