"""A snapshot: a trie's arrays and the log position they stand for, as a header and zstd chunks.

Nothing is allocated before the header's checksum, space and declared size are accepted.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

# Milliseconds and sequence number, ordered as Redis orders them.
EntryId = tuple[int, int]
Arrays = dict[str, NDArray[Any]]

ZERO: EntryId = (0, 0)
CHUNK_LEN = 4 << 20
MAX_HEADER_LEN = 1 << 20

_MAGIC = b"LOOKAHEAD-SNAPSHOT-1\n"
_DTYPES = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"])


class SnapshotError(ValueError):
    """The bytes are not a snapshot that may be loaded here."""


@dataclass(frozen=True, slots=True)
class Position:
    """A point in one history of a space: everything up to `cursor` on top of `base` is applied."""

    base: str  # which snapshot the history grew from; "" for the empty trie
    cursor: EntryId
    check: int  # CRC-32 of the entry at the cursor; 0 at ZERO
    producers: tuple[tuple[str, int, int], ...]  # hex id, boot epoch, last sequence; oldest first
    num_tokens: int  # ever applied in this history
    incarnation: str = ""  # named for the first entry of all; empty while nothing was learned


@dataclass(frozen=True, slots=True)
class Generation:
    """One snapshot in Redis: where it lies and what it covers."""

    key: str
    epoch: int
    covered: EntryId
    num_tokens: int  # applied up to there


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a reader starts from: the newest snapshot first, then the one before."""

    base: str
    generations: tuple[Generation, ...]
    incarnation: str = ""
    max_bytes: int = 0  # that a trie of the newest one's writer may take

    @property
    def newest(self) -> Generation:
        return self.generations[0]

    def dumps(self) -> bytes:
        text = _as_json(self)
        return b"%08x" % zlib.crc32(text) + text


def _as_json(value: "Pointer | Header") -> bytes:
    """As it is stored; there an incarnation is called a life."""
    names = {"incarnation": "life"}
    fields = asdict(value, dict_factory=lambda found: {names.get(k, k): v for k, v in found})
    return json.dumps(fields).encode()


def load_pointer(data: bytes) -> Pointer:
    """Parse a pointer; raises SnapshotError."""
    try:
        if int(data[:8], 16) != zlib.crc32(data[8:]):
            raise SnapshotError("pointer: the checksum does not match")
        fields = json.loads(data[8:])
        found = tuple(
            Generation(
                str(g["key"]), int(g["epoch"]), _entry_id(g["covered"]), int(g["num_tokens"])
            )
            for g in fields["generations"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"pointer: {error}") from error
    if not 1 <= len(found) <= 2:
        raise SnapshotError(f"pointer: {len(found)} generations")
    incarnation, max_bytes = str(fields.get("life", "")), int(fields.get("max_bytes", 0))
    return Pointer(str(fields["base"]), found, incarnation, max_bytes)


@lru_cache(maxsize=1024)
def parse_pointer(data: bytes | None) -> Pointer | None:
    """Read a pointer; an unreadable one is a pointer to nothing on a base that nobody has."""
    try:
        return load_pointer(data) if data is not None else None
    except SnapshotError:
        return Pointer("unreadable", ())


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says about itself."""

    space: str
    position: Position
    epoch: int
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]  # name, dtype, shape
    raw_len: int
    sha256: str

    @property
    def num_chunks(self) -> int:
        return sum(len(_cuts(_nbytes(dtype, shape))) for _, dtype, shape in self.arrays)


def digest(arrays: Arrays) -> str:
    """Hash the contents of arrays, in the order of their names."""
    found = hashlib.blake2b(digest_size=16)
    for _, array in sorted(arrays.items()):
        found.update(_row(array.astype(array.dtype.newbyteorder("<"), copy=False)))
    return found.hexdigest()


def dump_header(header: Header) -> bytes:
    """Serialise a header behind its own SHA-256."""
    text = _as_json(header)
    return _MAGIC + hashlib.sha256(text).digest() + text


def make_header(space: str, position: Position, epoch: int, arrays: Arrays) -> Header:
    """Describe arrays; hashes all their bytes, so give large ones to a thread."""
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(_row(array))
    table = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
    raw_len = sum(array.nbytes for array in arrays.values())
    return Header(space, position, epoch, table, raw_len, digest.hexdigest())


def load_header(data: bytes, *, space: str, max_len: int) -> Header:
    """Parse and check a header before anything is allocated; raises SnapshotError."""
    start = len(_MAGIC) + 32
    if len(data) > MAX_HEADER_LEN or not data.startswith(_MAGIC):
        raise SnapshotError(f"header: unknown format, begins with {data[:24]!r}")
    if hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise SnapshotError("header: the checksum does not match")
    try:
        header = _header(json.loads(data[start:]))
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"header: {error}") from error
    declared = sum(_nbytes(dtype, shape) for _, dtype, shape in header.arrays)
    if header.space != space:
        raise SnapshotError(f"header: space {header.space!r} is not {space!r}")
    if declared != header.raw_len or declared > max_len:
        raise SnapshotError(f"header: {header.raw_len} bytes, {declared} in arrays, max {max_len}")
    return header


def chunks(arrays: Arrays) -> Iterator[bytes]:
    """Yield the arrays as zstd frames of at most CHUNK_LEN raw bytes each."""
    compressor = zstandard.ZstdCompressor(level=3)
    for array in arrays.values():
        row = _row(array)
        for start, stop in _cuts(len(row)):
            yield compressor.compress(row[start:stop])


class Inflater:
    """Fills the arrays that a header declares, chunk by chunk, and never allocates more."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._arrays = {
            name: np.empty(shape, np.dtype(dtype)) for name, dtype, shape in header.arrays
        }
        self._places = [
            array.data.cast("B")[start:stop]
            for array in self._arrays.values()
            if array.nbytes
            for start, stop in _cuts(array.nbytes)
        ]

    def add(self, index: int, frame: bytes) -> None:
        """Put one chunk in its place; raises SnapshotError."""
        place = self._places[index]
        try:
            # The declared size is what zstandard allocates, so it is compared first.
            if zstandard.frame_content_size(frame) != len(place):
                raise SnapshotError(f"chunk {index}: declares another size than {len(place)}")
            data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise SnapshotError(f"chunk {index}: {error}") from error
        if len(data) != len(place):
            raise SnapshotError(f"chunk {index}: {len(data)} bytes for {len(place)}")
        place[:] = data

    def finish(self) -> Arrays:
        """Return the arrays if all their bytes are the ones that were hashed."""
        digest = hashlib.sha256()
        for array in self._arrays.values():
            digest.update(_row(array))
        if digest.hexdigest() != self._header.sha256:
            raise SnapshotError("arrays: the checksum does not match")
        return self._arrays


def _header(fields: dict[str, Any]) -> Header:
    position = fields["position"]
    table = tuple(
        (str(name), str(dtype), tuple(int(n) for n in shape))
        for name, dtype, shape in fields["arrays"]
    )
    if any(dtype not in _DTYPES or min(shape, default=0) < 0 for _, dtype, shape in table):
        raise ValueError(f"arrays {table} hold a dtype or shape that is refused")
    return Header(
        space=str(fields["space"]),
        position=Position(
            base=str(position["base"]),
            cursor=_entry_id(position["cursor"]),
            check=int(position["check"]),
            producers=tuple(
                (bytes.fromhex(p).hex(), int(b), int(s)) for p, b, s in position["producers"]
            ),
            num_tokens=int(position["num_tokens"]),
            incarnation=str(position.get("life", "")),
        ),
        epoch=int(fields["epoch"]),
        arrays=table,
        raw_len=int(fields["raw_len"]),
        sha256=str(fields["sha256"]),
    )


def _entry_id(pair: list[int]) -> EntryId:
    ms, sequence = pair
    return int(ms), int(sequence)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = np.dtype(dtype).itemsize
    for n in shape:
        size *= n
    return size


def _cuts(num_bytes: int) -> list[tuple[int, int]]:
    starts = range(0, num_bytes, CHUNK_LEN)
    return [(start, min(start + CHUNK_LEN, num_bytes)) for start in starts]


def _row(array: NDArray[Any]) -> memoryview:
    """See an array's bytes as one row, without a copy where it is contiguous."""
    if not array.nbytes:
        return memoryview(b"")
    return np.ascontiguousarray(array).data.cast("B")
