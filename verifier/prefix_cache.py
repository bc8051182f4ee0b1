"""Prefix reuse: a new sequence starts from rows that some slot already holds for its prompt.

Free slots keep their rows until they are taken again, least recently used first. Rows are shared
inside a namespace only, so that nobody can time what others have asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.kv_cache import KVCache
from verifier.plain_slots import PlainSlots

# Shorter common beginnings, such as a lone BOS, are not worth a copy or a warm slot.
MIN_REUSED = 16


@dataclass(frozen=True, slots=True)
class _Held:
    """What a slot's rows are: the namespace and tokens of the sequence that wrote them."""

    namespace: str
    token_ids: Sequence[int]  # of a running sequence: its own, growing list


class PrefixCache:
    """Gives out the slots of a cache and takes them back, remembering what they hold."""

    def __init__(self, slots: KVCache | PlainSlots) -> None:
        self._slots = slots
        self._held: dict[int, _Held] = {}
        self._running: set[int] = set()

    def take(
        self, namespace: str, token_ids: Sequence[int], *, may_reuse: bool = True
    ) -> tuple[int, int]:
        """A slot for the sequence, and how many leading tokens' rows it holds already."""
        if isinstance(self._slots, PlainSlots):
            return self._slots.allocate(), 0
        source, length = self._longest(namespace, token_ids) if may_reuse else (-1, 0)
        if length < MIN_REUSED:
            slot, length = self._slots.allocate(), 0
        elif source in self._running:
            slot = self._slots.allocate()
            self._slots.copy(source, slot, length)
        else:
            slot = self._slots.allocate(source, length=length)
        self._held[slot] = _Held(namespace, token_ids)
        self._running.add(slot)
        return slot, length

    def give(self, slot: int) -> None:
        """Take a slot back; its rows may serve another sequence."""
        self._running.discard(slot)
        self._slots.free(slot)

    def _longest(self, namespace: str, token_ids: Sequence[int]) -> tuple[int, int]:
        """The slot that shares the longest beginning, a free one where there is a choice."""
        wanted = np.array(token_ids[:-1])  # the last token's logits must be computed
        best, best_key = -1, (0, False)
        for slot, held in self._held.items():
            if held.namespace != namespace:
                continue
            # An end inside an accepted run leaves rows of tokens that were never emitted.
            rows = min(self._slots.length(slot), len(held.token_ids), len(wanted))
            differs = np.flatnonzero(np.array(held.token_ids[:rows]) != wanted[:rows])
            key = (int(differs[0]) if len(differs) else rows, slot not in self._running)
            if key > best_key:
                best, best_key = slot, key
        return best, best_key[0]
