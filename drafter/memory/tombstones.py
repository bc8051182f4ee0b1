"""Remembers which incarnations of spaces were forgotten, as long as this process runs.

A space's incarnation begins with the first entry that its log ever got, and is named for it.
Snapshots carry the name on, also into a Redis that lost everything. Forgetting ends an incarnation.
So whatever brings forgotten runs back brings the name back with them: a failover that lost the
deletion, or a replica that had not heard of it.
"""

import hashlib
from collections import OrderedDict

from drafter.log.protocol import Log, Page
from drafter.trie.snapshot import ZERO, EntryId, parse_pointer

_MAX_INCARNATIONS = 10_000


def incarnation_of(entry_id: EntryId, data: bytes) -> str:
    """Name an incarnation for its first entry."""
    text = f"{entry_id[0]}-{entry_id[1]} ".encode()
    return hashlib.blake2b(text + data, digest_size=16).hexdigest()


def incarnation_in(page: Page, *, from_start: bool) -> str:
    """Name the incarnation that a page shows; empty where it shows none."""
    pointer = parse_pointer(page.pointer)
    if pointer is not None and pointer.incarnation:
        return pointer.incarnation
    if from_start and page.entries:
        return incarnation_of(*page.entries[0])
    return ""


class Tombstones:
    """The newest of them, and which incarnations each space has had since it was forgotten last."""

    def __init__(self, max_incarnations: int = _MAX_INCARNATIONS) -> None:
        self._ended: OrderedDict[str, str] = OrderedDict()  # incarnation: space
        self._seen: OrderedDict[str, set[str]] = OrderedDict()  # the latest of very many spaces
        self._max_incarnations = max_incarnations

    def saw(self, space: str, incarnation: str) -> None:
        """Note an incarnation that a space has or had; an empty name is none."""
        if incarnation and incarnation not in self._ended:
            self._seen.setdefault(space, set()).add(incarnation)
            self._seen.move_to_end(space)
        while len(self._seen) > self._max_incarnations:
            self._seen.popitem(last=False)

    def end(self, space: str) -> None:
        """Note that a space is forgotten, in whichever incarnation its runs were learned."""
        for incarnation in sorted(self._seen.pop(space, ())):
            self._ended[incarnation] = space
        while len(self._ended) > self._max_incarnations:
            self._ended.popitem(last=False)

    def __contains__(self, incarnation: str) -> bool:
        return incarnation in self._ended

    def spaces(self) -> set[str]:
        """Name the spaces that were forgotten."""
        return set(self._ended.values())


async def forget_in_log(log: Log, space: str, tombstones: Tombstones) -> None:
    """Delete a space; an incarnation known here is deleted again wherever it is seen."""
    tombstones.saw(space, incarnation_in(await log.read(space, ZERO), from_start=True))
    tombstones.end(space)
    await log.forget(space)
