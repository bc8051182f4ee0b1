"""The log as a replica sees it: pages of entries, a lease, one step that publishes a snapshot."""

import zlib
from dataclasses import dataclass
from typing import Protocol

from drafter.trie.snapshot import ZERO, EntryId, Pointer, Position, parse_pointer


class WrongType(ConnectionError):
    """A key of the space holds what none of ours would write."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far the log goes; all zero where it is empty or the server does not say."""

    last_id: EntryId = ZERO
    num_added: int = 0  # ever, trimmed ones included
    num_held: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """One read of the log: the entries from the cursor's own on, and after them the pointer."""

    entries: list[tuple[EntryId, bytes]]
    pointer: bytes | None
    wanted: bool  # somebody found no snapshot that it can load
    end: LogEnd

    def begins(self, cursor: EntryId, check: int) -> bool:
        """Tell whether it begins with a certain entry, byte for byte."""
        first = self.entries[0] if self.entries else (ZERO, b"")
        return (first[0], zlib.crc32(first[1])) == (cursor, check)

    def leads_on(self, position: Position) -> bool:
        """Tell whether the log goes on from a position, from whose cursor on this was read."""
        if position.cursor > ZERO:
            return self.begins(position.cursor, position.check)
        pointer = parse_pointer(self.pointer)
        return pointer is None or [g.covered for g in pointer.generations][-1:] == [ZERO]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write the next snapshot; `epoch` grows with every lease."""

    token: str
    epoch: int

    @property
    def key(self) -> str:
        # Epochs begin again when a space is forgotten; the key of an upload never does.
        return f"snapshot-{self.epoch}-{self.token[:8]}"


@dataclass(frozen=True, slots=True)
class Publication:
    """What `publish` does in one step, if the lease holds and the log is still as expected.

    The pointer must be `expected`, the covered entry and all parts there: a failover may have lost
    parts that were acknowledged.
    """

    expected: bytes | None
    pointer: Pointer
    check: int  # of the entry at pointer.newest.covered
    num_parts: int
    trim_to: EntryId
    drop: tuple[str, ...]


class Log(Protocol):
    """The log of every space. Any call may raise ConnectionError, applied or not.

    WrongType is raised until `remove` has deleted what `wrong_keys` names.
    """

    async def read(self, space: str, cursor: EntryId) -> Page: ...
    async def append(self, space: str, data: bytes) -> None: ...
    async def instance_id(self) -> str: ...
    async def acquire(self, space: str) -> Lease | None: ...
    async def write_part(self, space: str, lease: Lease, part: str, data: bytes) -> bool: ...
    async def read_part(self, space: str, key: str, part: str) -> bytes | None: ...
    async def publish(self, space: str, lease: Lease, publication: Publication) -> bool: ...
    async def want_snapshot(self, space: str) -> None: ...
    async def forget(self, space: str) -> None: ...
    async def wrong_keys(self, space: str) -> set[str]: ...
    async def remove(self, space: str, names: set[str]) -> None: ...
