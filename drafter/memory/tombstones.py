"""Which lives of spaces were forgotten, as long as this process lives.

A space's life begins with the first entry that its log ever got, and is named for it; snapshots
carry the name on, also into a Redis that lost everything. Forgetting ends a life. So whatever
brings forgotten runs back, be it a failover that lost the deletion or a replica that had not heard
of it, brings the name back with them.
"""

import hashlib
from collections import OrderedDict

from drafter.log.protocol import Log, Page
from drafter.trie.snapshot import ZERO, EntryId, parse_pointer

_MAX_LIVES = 10_000


def life_of(entry_id: EntryId, data: bytes) -> str:
    """Name a life for its first entry."""
    text = f"{entry_id[0]}-{entry_id[1]} ".encode()
    return hashlib.blake2b(text + data, digest_size=16).hexdigest()


def life_in(page: Page, *, from_start: bool) -> str:
    """Name the life that a page shows; empty where it shows none."""
    pointer = parse_pointer(page.pointer)
    if pointer is not None and pointer.life:
        return pointer.life
    if from_start and page.entries:
        return life_of(*page.entries[0])
    return ""


class ForgottenLives:
    """The newest of them, and which lives each space has had since it was forgotten last."""

    def __init__(self, max_lives: int = _MAX_LIVES) -> None:
        self._ended: OrderedDict[str, str] = OrderedDict()  # life: space
        self._seen: dict[str, set[str]] = {}
        self._max_lives = max_lives

    def saw(self, space: str, life: str) -> None:
        """Note a life that a space has or had; an empty name is none."""
        if life and life not in self._ended:
            self._seen.setdefault(space, set()).add(life)

    def end(self, space: str) -> None:
        """Note that a space is forgotten, whichever of its lives its runs were learned in."""
        for life in sorted(self._seen.pop(space, ())):
            self._ended[life] = space
        while len(self._ended) > self._max_lives:
            self._ended.popitem(last=False)

    def __contains__(self, life: str) -> bool:
        return life in self._ended

    def spaces(self) -> set[str]:
        """Name the spaces that were forgotten."""
        return set(self._ended.values())


async def forget_in_log(log: Log, space: str, lives: ForgottenLives) -> None:
    """Delete a space. Once its life is known here, it is deleted again wherever it is seen."""
    lives.saw(space, life_in(await log.read(space, ZERO), from_start=True))
    lives.end(space)
    await log.forget(space)
