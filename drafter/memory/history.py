"""One space's state: a trie, and the place in a history of the log that it stands for.

The state is a pure function of (base, cursor): the base snapshot, and every entry up to the cursor
in log order, each run once.
"""

import zlib
from dataclasses import asdict, dataclass

from drafter.log.entry import EntryError, decode
from drafter.memory.tombstones import incarnation_of
from drafter.trie.snapshot import MAX_PRODUCERS, ZERO, EntryId, Position
from drafter.trie.store import TokenTrie

START = Position(base="", cursor=ZERO, check=0, producers=(), num_tokens=0)


@dataclass(slots=True)
class Counts:
    """What was seen and done so far, in all histories."""

    tokens: int = 0
    duplicates: int = 0
    holes: int = 0
    skipped: int = 0
    snapshots: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class History:
    """Applies entries in order, and says where it stands."""

    def __init__(self, trie: TokenTrie) -> None:
        self.counts = Counts()
        self.stand_at(START, trie)

    def stand_at(self, position: Position, trie: TokenTrie) -> None:
        """Go on from another place, in this history or another."""
        self.trie = trie
        self.base, self.cursor, self._check = position.base, position.cursor, position.check
        self.num_tokens, self.incarnation = position.num_tokens, position.incarnation
        self._producers = {
            (bytes.fromhex(name), boot): last for name, boot, last in position.producers
        }

    def position(self) -> Position:
        """Say where in which history the state stands."""
        producers = tuple((key[0].hex(), key[1], last) for key, last in self._producers.items())
        return Position(
            self.base, self.cursor, self._check, producers, self.num_tokens, self.incarnation
        )

    def name(self) -> str:
        """Name the position: equal names mean equal tries."""
        return f"{self.base[:12] or 'root'}:{self.cursor[0]}-{self.cursor[1]}"

    def apply(self, entry_id: EntryId, data: bytes) -> None:
        """Learn the next entry, unless it is a copy of one before, or nothing that can be read."""
        self.cursor, self._check = entry_id, zlib.crc32(data)
        self.incarnation = self.incarnation or incarnation_of(entry_id, data)
        try:
            entry = decode(data)
        except EntryError:
            self.counts.skipped += 1
            return
        if not self._is_new((entry.producer, entry.boot_epoch), entry.sequence):
            self.counts.duplicates += 1
            return
        for run in entry.runs:
            self.trie.learn(run)
        self.counts.tokens += entry.num_tokens
        self.num_tokens += entry.num_tokens

    def _is_new(self, key: tuple[bytes, int], sequence: int) -> bool:
        last = self._producers.get(key)
        if last is not None and sequence <= last:
            return False
        # A hole is an entry that Redis lost; every reader misses it alike, so the tries agree.
        self.counts.holes += last is not None and sequence > last + 1
        self._producers.pop(key, None)
        self._producers[key] = sequence
        if len(self._producers) > MAX_PRODUCERS:
            del self._producers[next(iter(self._producers))]
        return True
