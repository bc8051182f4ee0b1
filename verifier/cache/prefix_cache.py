"""Prefix reuse: a new sequence starts from rows that some slot already holds for its prompt.

Free slots keep their rows until they are taken again, least recently used first. Where another
sequence is computing the rows of the same beginning just now, a new one follows it: it waits, and
starts from a copy. Rows are shared inside a namespace only, so that nobody can time what others
have asked. A sequence of no namespace shares nothing: it takes no rows, leaves none, and the slot
it gets does not depend on what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.cache.kv_cache import KVCache
from verifier.cache.stateful_slots import StatefulSlots

# Shorter common beginnings, such as a lone BOS, are not worth a copy or a warm slot.
MIN_REUSED = 16


@dataclass(frozen=True, slots=True)
class _Held:
    """What a slot's rows are: the namespace and tokens of the sequence that wrote them."""

    namespace: str
    token_ids: Sequence[int]  # of a running sequence: its own, growing list


@dataclass(frozen=True, slots=True)
class _Follower:
    """A sequence that waits for the rows that another one computes."""

    leader: _Held
    leader_slot: int
    length: int  # leading rows that both need


class PrefixCache:
    """Gives out the slots of a cache and takes them back, remembering what they hold."""

    def __init__(self, slots: KVCache | StatefulSlots) -> None:
        self._slots = slots
        self._held: dict[int, _Held] = {}
        self._running: set[int] = set()
        self._followers: dict[int, _Follower] = {}  # by slot, oldest first

    def take(
        self, namespace: str | None, token_ids: Sequence[int], *, reuses: bool = True
    ) -> tuple[int, int]:
        """A slot for the sequence, and how many leading tokens' rows it holds already.

        `reuses`: it may start from rows that are there, whose logits are not.
        """
        if isinstance(self._slots, StatefulSlots):
            return self._slots.allocate(), 0
        if namespace is None:
            slot = self._slots.allocate()
            self._held.pop(slot, None)
            return slot, 0
        source, length = self._longest(namespace, token_ids) if reuses else (-1, 0)
        if length < MIN_REUSED:
            slot, length = self._slots.allocate(), 0
        elif source in self._running:
            slot = self._slots.allocate()
            self._slots.copy(source, slot, length)
        else:
            slot = self._slots.allocate(source, length=length)
        self._held[slot] = _Held(namespace, token_ids)
        if reuses:
            self._follow(slot, length)
        self._running.add(slot)
        return slot, length

    def is_waiting(self, slot: int) -> bool:
        """Whether the slot's sequence waits for rows that another one computes."""
        return slot in self._followers

    def catch_up(self) -> dict[int, int]:
        """Copy what followers waited for; return their slots and the rows they hold now."""
        held: dict[int, int] = {}
        for slot, follower in list(self._followers.items()):
            is_leading = follower.leader_slot in self._running
            there = self._slots.length(follower.leader_slot)
            if is_leading and there < follower.length:
                continue
            del self._followers[slot]
            # A leader that left early leaves its rows, unless its slot was taken again.
            if self._held.get(follower.leader_slot) is follower.leader:
                held |= self._copy(follower.leader_slot, slot, min(there, follower.length))
            self._follow(slot, self._slots.length(slot))
        return held

    def _copy(self, source: int, slot: int, length: int) -> dict[int, int]:
        """Copy what of the first rows is of use; return the slot and the rows it holds then."""
        if not isinstance(self._slots, KVCache):
            return {}
        length = self._slots.reusable(source, length)
        if length <= self._slots.length(slot):
            return {}
        self._slots.copy(source, slot, length)
        return {slot: length}

    def give(self, slot: int) -> None:
        """Take a slot back; its rows may serve another sequence."""
        self._running.discard(slot)
        self._followers.pop(slot, None)
        self._slots.free(slot)

    def _follow(self, slot: int, length: int) -> None:
        """Let the slot's sequence wait if another one is computing enough more of its rows."""
        own = self._held[slot]
        best = length + MIN_REUSED - 1
        for leader_slot in self._running - self._followers.keys() - {slot}:
            leader = self._held[leader_slot]
            if leader.namespace != own.namespace:
                continue
            shared = _shared(leader.token_ids, own.token_ids[:-1])
            if isinstance(self._slots, KVCache):
                shared = self._slots.promised(shared, len(leader.token_ids))
            # Rows that are there are taken at once; beyond its prompt a leader promises nothing.
            if self._slots.length(leader_slot) < shared and shared > best:
                best = shared
                self._followers[slot] = _Follower(leader, leader_slot, shared)

    def _longest(self, namespace: str, token_ids: Sequence[int]) -> tuple[int, int]:
        """The slot that shares the longest beginning, a free one where there is a choice."""
        wanted = token_ids[:-1]  # the last token's logits must be computed
        best, best_key = -1, (0, False)
        for slot, held in self._held.items():
            if held.namespace != namespace:
                continue
            # An end inside an accepted run leaves rows of tokens that were never emitted.
            shared = _shared(held.token_ids[: self._slots.length(slot)], wanted)
            if isinstance(self._slots, KVCache):
                shared = self._slots.reusable(slot, shared)
            key = (shared, slot not in self._running)
            if key > best_key:
                best, best_key = slot, key
        return best, best_key[0]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(np.array(first[:length]) != np.array(second[:length]))
    return int(differs[0]) if len(differs) else length
