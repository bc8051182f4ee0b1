"""Snapshots of one space on their way from and to the log, checked part by part."""

import logging

from drafter.log.protocol import Lease, Log, Publication
from drafter.runtime import Runtime
from drafter.trie.snapshot import (
    ZERO,
    Arrays,
    Generation,
    Header,
    Inflater,
    Pointer,
    Position,
    SnapshotError,
    chunks,
    dump_header,
    load_header,
    make_header,
    parse_pointer,
)
from drafter.trie.store import Store, TokenTrie

logger = logging.getLogger(__name__)
# A generation that was refused is not fetched again before this.
_PAUSE_S = 1.0
# The arrays of a trie, which is all that a snapshot may hold.
_DIMENSIONS = {"tokens": ("<i4", 1), "num_learned": ("<i8", 1)}


class SnapshotTransfer:
    """Loads and uploads generations; remembers which ones could not be loaded."""

    def __init__(
        self,
        space: str,
        store: Store,
        log: Log,
        runtime: Runtime,
        *,
        max_len: int,
    ) -> None:
        self._space, self._store, self._log = space, store, log
        self._runtime, self._max_len = runtime, max_len
        self._broken: dict[str, float] = {}  # when they were refused last

    async def load(self, generation: Generation) -> tuple[Position, TokenTrie] | None:
        """Fetch one generation; None when it is missing or refused."""
        now_s = self._runtime.now()
        if now_s - self._broken.get(generation.key, -_PAUSE_S) < _PAUSE_S:
            return None
        try:
            return await self._load(generation)
        except (ValueError, MemoryError) as error:
            self.refuse(generation, str(error))
            return None

    def refuse(self, generation: Generation, reason: str) -> None:
        """Note that a generation is of no use here."""
        if generation.key not in self._broken:
            logger.warning("snapshot refused space=%s: %s", self._space, reason)
        self._broken[generation.key] = self._runtime.now()

    async def upload(
        self, lease: Lease, position: Position, arrays: Arrays, expected: bytes | None
    ) -> bool:
        """Write the parts under a fresh key, then switch the pointer if it is still `expected`.

        The newest generation that can be loaded is kept, unless the position is of another base.
        """
        num_parts = await self._write(lease, position, arrays)
        if num_parts == 0:
            return False
        old = parse_pointer(expected)
        kept = self._kept(old, position) if old else []
        newest = Generation(lease.key, lease.epoch, position.cursor, position.num_tokens)
        known = {generation.key for generation in old.generations} if old else set()
        publication = Publication(
            expected=expected,
            pointer=Pointer(
                position.base, (newest, *kept), position.incarnation, self._store.max_bytes
            ),
            check=position.check,
            num_parts=num_parts,
            trim_to=kept[0].covered if kept else ZERO,
            drop=tuple(known - {generation.key for generation in kept}),
        )
        return await self._log.publish(self._space, lease, publication)

    async def _load(self, generation: Generation) -> tuple[Position, TokenTrie]:
        head = await self._part(generation, "header")
        header = load_header(head, space=self._space, max_len=self._max_len)
        if header.position.cursor != generation.covered:
            raise SnapshotError(f"{generation.key}: covers {header.position.cursor}")
        _check_arrays(header)
        inflater = Inflater(header, self._store.max_tokens)
        for index in range(header.num_chunks):
            frame = await self._part(generation, str(index))
            await self._runtime.offload(inflater.add, index, frame)
        arrays = await self._runtime.offload(inflater.finish)
        return header.position, await self._runtime.offload(self._store.build, arrays)

    async def _part(self, generation: Generation, part: str) -> bytes:
        data = await self._log.read_part(self._space, generation.key, part)
        if data is None:
            raise SnapshotError(f"{generation.key}: part {part} is missing")
        return data

    async def _write(self, lease: Lease, position: Position, arrays: Arrays) -> int:
        """Write all parts; return their number, or 0 when the lease was lost on the way."""
        header = await self._runtime.offload(
            make_header, self._space, position, lease.epoch, arrays
        )
        frames = chunks(arrays)
        for index in range(header.num_chunks):
            frame = await self._runtime.offload(next, frames)
            if not await self._log.write_part(self._space, lease, str(index), frame):
                return 0
        head = dump_header(header)
        written = await self._log.write_part(self._space, lease, "header", head)
        return header.num_chunks + 1 if written else 0

    def _kept(self, old: Pointer, position: Position) -> list[Generation]:
        if old.base != position.base:
            return []
        return [g for g in old.generations if g.key not in self._broken][:1]


def _check_arrays(header: Header) -> None:
    """Refuse arrays that are not a trie's, before memory is taken for them."""
    known = {name: (dtype, len(shape)) for name, dtype, shape in header.arrays}
    if any(_DIMENSIONS.get(name) != found for name, found in known.items()):
        raise SnapshotError(f"arrays: {known} are not those of a trie")
