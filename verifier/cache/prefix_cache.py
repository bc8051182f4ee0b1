"""Prefix reuse: a new sequence starts from rows that are in the cache for its beginning.

The pages of sequences that ended are kept, and those of running ones can be shared. Where another
sequence is computing the rows of the same beginning just now, a new one follows it: it waits, and
begins with them. Rows are shared inside a namespace only, so that nobody can time what others have
asked. A sequence of no namespace shares nothing: it takes no rows and leaves none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from verifier.cache.kv_cache import KVCache
from verifier.cache.pages import PAGE, Pages, num_pages_of
from verifier.cache.prefix_tree import PrefixTree, num_shared
from verifier.cache.stateful_slots import StatefulSlots

# Shorter common beginnings, such as a lone BOS, are not worth a copy.
MIN_REUSED = 16


@dataclass(frozen=True, slots=True)
class _Held:
    """What a slot's rows are: the namespace and tokens of the sequence that writes them."""

    namespace: str
    token_ids: Sequence[int]  # its own, growing list


@dataclass(frozen=True, slots=True)
class _Follower:
    """A sequence that waits for the rows that another one computes."""

    leader: _Held
    leader_slot: int
    length: int  # leading rows that both need


class PrefixCache:
    """Gives out the slots of a cache and takes them back, remembering what their pages hold."""

    def __init__(self, slots: KVCache | StatefulSlots) -> None:
        self._slots = slots
        self._tree = PrefixTree()
        self._held: dict[int, _Held] = {}  # of running sequences, by slot
        self._followers: dict[int, _Follower] = {}  # by slot, oldest first
        if isinstance(slots, KVCache):
            slots.pages.forget()
            slots.pages.on_evict = self._tree.forget

    def has_room(
        self, namespace: str | None, token_ids: Sequence[int], num_rows: int, num_spare: int
    ) -> bool:
        """Whether there are pages for a sequence of so many rows, and so many pages besides."""
        if isinstance(self._slots, StatefulSlots):
            return True
        room = self._slots.pages.num_available - num_spare
        num_missing = num_pages_of(num_rows)
        if num_missing > room and namespace is not None:
            num_missing -= self._num_shared_pages(namespace, token_ids[:-1], self._slots.pages)
        return num_missing <= room

    def _num_shared_pages(self, namespace: str, token_ids: Sequence[int], pages: Pages) -> int:
        """Held pages that a sequence can begin with, now or once they are computed."""
        known, length = self._tree.find(namespace, token_ids)
        shared = [sum(map(pages.is_held, known[: length // PAGE]))]
        for held in self._held.values():
            if held.namespace == namespace:
                shared.append(num_shared(held.token_ids, token_ids) // PAGE)
        return max(shared)

    def take(
        self, namespace: str | None, token_ids: Sequence[int], *, reuses: bool = True
    ) -> tuple[int, int]:
        """A slot for the sequence, and how many leading tokens' rows it holds already.

        `reuses`: it may start from rows that are there, whose logits are not.
        """
        slot = self._slots.allocate()
        if namespace is None or isinstance(self._slots, StatefulSlots):
            return slot, 0
        self._held[slot] = _Held(namespace, token_ids)
        if not reuses:
            return slot, 0
        length = self._begin(slot)
        self._follow(slot, length)
        return slot, length

    def is_waiting(self, slot: int) -> bool:
        """Whether the slot's sequence waits for rows that another one computes."""
        return slot in self._followers

    def catch_up(self) -> dict[int, int]:
        """Share what followers waited for; return their slots and the rows they hold now."""
        held: dict[int, int] = {}
        for slot, follower in list(self._followers.items()):
            is_leading = self._held.get(follower.leader_slot) is follower.leader
            if is_leading and self._slots.length(follower.leader_slot) < follower.length:
                continue
            del self._followers[slot]  # a leader that left early leaves its rows
            held[slot] = self._begin(slot, at_least=1)
            self._follow(slot, held[slot])
        return held

    def give(self, slot: int) -> None:
        """Take a slot back; its rows may serve another sequence."""
        held = self._held.pop(slot, None)
        self._followers.pop(slot, None)
        known = self._leave(slot, held) if held is not None else []
        self._slots.free(slot)
        if isinstance(self._slots, KVCache):
            for page in reversed(known):  # what follows others is given out before them
                self._slots.pages.touch(page)

    def _leave(self, slot: int, held: _Held) -> list[int]:
        """Note what the slot's pages hold; return the pages that hold it from now on."""
        assert isinstance(self._slots, KVCache), "there are no pages to leave"
        # An end inside an accepted run leaves rows of tokens that were never emitted.
        token_ids = held.token_ids[: self._slots.settled(slot)]
        table = self._slots.table(slot)
        known = self._tree.add(held.namespace, token_ids, table)
        for page, own in zip(known, table, strict=False):
            if page == own:
                self._slots.pages.know(page)
        return known

    def _begin(self, slot: int, at_least: int = MIN_REUSED) -> int:
        """Let a slot begin with the longest rows that there are; return how many it has then."""
        held, slots = self._held[slot], self._slots
        assert isinstance(slots, KVCache), "there are no pages to share"
        pages, length = self._longest(held.namespace, held.token_ids, but=slot)
        if length >= max(at_least, slots.length(slot) + 1):
            slots.share(slot, pages[: num_pages_of(length)], length)
        return slots.length(slot)

    def _follow(self, slot: int, length: int) -> None:
        """Let the slot's sequence wait if another one is computing enough more of its rows."""
        assert isinstance(self._slots, KVCache), "there are no rows to wait for"
        own = self._held[slot]
        best = length + MIN_REUSED - 1
        for leader_slot, leader in self._held.items():
            if leader_slot in self._followers or leader_slot == slot:
                continue
            if leader.namespace != own.namespace:
                continue
            shared = num_shared(leader.token_ids, own.token_ids[:-1])
            shared = self._slots.promised(shared, len(leader.token_ids))
            # Rows that are there are taken at once; beyond its prompt a leader promises nothing.
            if self._slots.length(leader_slot) < shared and shared > best:
                best = shared
                self._followers[slot] = _Follower(leader, leader_slot, shared)

    def _longest(
        self, namespace: str, token_ids: Sequence[int], but: int = -1
    ) -> tuple[Sequence[int], int]:
        """The pages of the longest beginning that is kept, or that others than a slot hold."""
        assert isinstance(self._slots, KVCache), "there are no pages"
        wanted = token_ids[:-1]  # the last token's logits must be computed
        pages, length = self._tree.find(namespace, wanted)
        best: tuple[Sequence[int], int] = pages, self._slots.reusable(pages, length)
        for slot, held in self._held.items():
            if held.namespace != namespace or slot == but:
                continue
            length = min(num_shared(held.token_ids, wanted), self._slots.settled(slot))
            table = self._slots.table(slot)
            length = self._slots.reusable(table, length)
            if length > best[1]:
                best = table, length
        return best
