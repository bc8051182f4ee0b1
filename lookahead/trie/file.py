"""A namespace's memory as a file: the snapshot that Redis holds, its parts one after the other."""

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.session_store import SessionStore
from drafter.drafting.sessions import DraftSessions
from drafter.memory.reader import read_space
from drafter.trie.snapshot import (
    CHUNK_LEN,
    MAX_HEADER_LEN,
    Inflater,
    SnapshotError,
    chunks,
    dump_header,
    load_header,
    make_header,
)

_LEN = struct.Struct("<I")
_MAX_PART_LEN = max(CHUNK_LEN, MAX_HEADER_LEN) + (1 << 16)
_MAX_BYTES = 8 << 30
# One as large as any drafter's, so that nothing is evicted on the way.
_MAX_NAMESPACE_BYTES = 2 << 30
_LOAD_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    num_tokens: int
    position: str
    digest: str


def export_space(redis_url: str, vocabulary: str, namespace: str, path: Path) -> Exported:
    """Follow the log up to its end, as a drafter would, and write what it comes to."""
    return asyncio.run(_export(redis_url, vocabulary, namespace, path))


def read_runs(path: Path, vocabulary: str) -> Iterator[NDArray[np.int32]]:
    """Return an export's runs, oldest first, if they are of this vocabulary; else SnapshotError."""
    with path.open("rb") as file:
        parts = _parts(file.read(_MAX_BYTES))
    head = next(parts, None)
    if head is None:
        raise SnapshotError("file: is empty")
    header = load_header(head, space=vocabulary, max_len=_MAX_BYTES)
    inflater = Inflater(header)
    for index in range(header.num_chunks):
        inflater.add(index, next(parts, b""))
    tokens = inflater.finish().get("tokens")
    if tokens is None or tokens.dtype != np.int32 or tokens.ndim != 1:
        raise SnapshotError("file: contains no tokens")
    return _runs(tokens)


def _runs(tokens: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    for run in np.split(tokens, np.flatnonzero(tokens < 0)):
        ids = run[run >= 0]
        if len(ids):
            yield ids


async def _export(redis_url: str, vocabulary: str, namespace: str, path: Path) -> Exported:
    space = f"{vocabulary}/{namespace}"
    sessions = DraftSessions(max_namespace_bytes=_MAX_NAMESPACE_BYTES)
    store = SessionStore(sessions, max_namespace_bytes=_MAX_NAMESPACE_BYTES)
    try:
        position, trie = await read_space(redis_url, space, store, _LOAD_TIMEOUT_S)
    except TimeoutError:
        raise ValueError(
            f"no snapshot could be read in {_LOAD_TIMEOUT_S:.0f} s; is a drafter running?"
        ) from None
    if not trie.num_tokens:
        raise ValueError(f"Redis holds nothing of it for the vocabulary {vocabulary}")
    arrays = dict(trie.export())
    header = make_header(vocabulary, position, 0, arrays)
    with path.open("wb") as file:
        for part in (dump_header(header), *chunks(arrays)):
            file.write(_LEN.pack(len(part)) + part)
    cursor = "{}-{}".format(*position.cursor)
    return Exported(trie.num_tokens, cursor, trie.digest())


def _parts(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        if len(data) < start + _LEN.size:
            raise SnapshotError("file: is cut off inside a length")
        (length,) = _LEN.unpack_from(data, start)
        start += _LEN.size
        if length > _MAX_PART_LEN:
            raise SnapshotError("file: holds no export of a memory")
        if start + length > len(data):
            raise SnapshotError(f"file: is cut off, {start + length - len(data)} bytes are missing")
        yield data[start : start + length]
        start += length
