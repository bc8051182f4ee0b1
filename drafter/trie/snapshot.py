"""A snapshot: a trie's arrays and the log position they stand for, as a header and zstd chunks.

Nothing is allocated before the header's checksum, space and declared size are accepted, and then no
more than its reader can use. Every field is checked, for anybody may have written it.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

# Milliseconds and sequence number, ordered as Redis orders them.
EntryId = tuple[int, int]
Arrays = dict[str, NDArray[Any]]

ZERO: EntryId = (0, 0)
CHUNK_LEN = 4 << 20
MAX_HEADER_LEN = 1 << 20
MAX_POINTER_LEN = 1 << 12
# Dedupe remembers this many (producer, boot) pairs, the latest in log order, the same everywhere.
MAX_PRODUCERS = 1024

_MAGIC = b"LOOKAHEAD-SNAPSHOT-1\n"
_DTYPES = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"])


class SnapshotError(ValueError):
    """The bytes are not a snapshot that may be loaded here."""


_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Word = Annotated[int, Field(ge=0, lt=1 << 64)]  # as Redis and the log's entries hold them
_Check = Annotated[int, Field(ge=0, lt=1 << 32)]
_Name = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{0,64}$")]
_Key = Annotated[str, Field(pattern=r"^snapshot-[0-9A-Za-z.-]{1,64}$")]
_Producer = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Producers = Annotated[tuple[tuple[_Producer, _Word, _Word], ...], Field(max_length=MAX_PRODUCERS)]


@dataclass(frozen=True, slots=True)
class Position:
    """A point in one history of a space: everything up to `cursor` on top of `base` is applied."""

    base: _Name  # which snapshot the history grew from; "" for the empty trie
    cursor: tuple[_Word, _Word]
    check: _Check  # CRC-32 of the entry at the cursor; 0 at ZERO
    producers: _Producers  # hex id, boot epoch, last sequence; oldest first
    num_tokens: _Count  # ever applied in this history
    # Named for the first entry of all; empty while nothing was learned. Stored as "life".
    incarnation: Annotated[_Name, Field(alias="life")] = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One snapshot in Redis: where it lies and what it covers."""

    key: _Key
    epoch: _Word
    covered: tuple[_Word, _Word]
    num_tokens: _Count  # applied up to there


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a reader starts from: the newest snapshot first, then the one before."""

    base: _Name
    generations: Annotated[tuple[Generation, ...], Field(min_length=1, max_length=2)]
    incarnation: Annotated[_Name, Field(alias="life")] = ""
    max_bytes: _Count = 0  # that a trie of the newest one's writer may take

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
    if len(data) > MAX_POINTER_LEN:
        raise SnapshotError(f"pointer: {len(data)} bytes, at most {MAX_POINTER_LEN} are read")
    try:
        if int(data[:8], 16) != zlib.crc32(data[8:]):
            raise SnapshotError("pointer: the checksum does not match")
        return _POINTER.validate_json(data[8:], strict=True)
    except ValueError as error:
        raise SnapshotError(f"pointer: {_first_line(error)}") from error


UNREADABLE = Pointer("unreadable", ())


@lru_cache(maxsize=1024)  # of short ones: the others are not even parsed
def _parse_pointer(data: bytes) -> Pointer:
    try:
        return load_pointer(data)
    except SnapshotError:
        return UNREADABLE


def parse_pointer(data: bytes | None) -> Pointer | None:
    """Read a pointer; an unreadable one is a pointer to nothing on a base that nobody has."""
    if data is None:
        return None
    return _parse_pointer(data) if len(data) <= MAX_POINTER_LEN else UNREADABLE


_Array = tuple[
    Annotated[str, Field(max_length=64)],
    Annotated[str, Field(max_length=8)],
    Annotated[tuple[_Count, ...], Field(max_length=4)],
]
_Table = Annotated[tuple[_Array, ...], Field(max_length=16)]


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says about itself."""

    space: Annotated[str, Field(max_length=512)]
    position: Position
    epoch: _Word
    arrays: _Table  # name, dtype, shape
    raw_len: _Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

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
        header = _HEADER.validate_json(data[start:], strict=True)
    except ValueError as error:
        raise SnapshotError(f"header: {_first_line(error)}") from error
    if unknown := {dtype for _, dtype, _ in header.arrays} - _DTYPES:
        raise SnapshotError(f"header: {sorted(unknown)} are refused")
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
    """Fills the arrays that a header declares, chunk by chunk, and never allocates more.

    Of an array with more than `max_rows` rows it keeps the last ones only.
    """

    def __init__(self, header: Header, max_rows: int | None = None) -> None:
        self._header = header
        self._arrays: Arrays = {}
        # Per chunk: the bytes of an array that are kept, how many before them are not, its place.
        self._places: list[tuple[memoryview, int, tuple[int, int]]] = []
        self._digest = hashlib.sha256()
        self._num_added = 0
        for name, dtype, shape in header.arrays:
            kept = (min(shape[0], max_rows), *shape[1:]) if shape and max_rows else shape
            array = self._arrays[name] = np.empty(kept, np.dtype(dtype))
            size = _nbytes(dtype, shape)
            row = array.data.cast("B") if array.nbytes else memoryview(b"")
            self._places += [(row, size - array.nbytes, cut) for cut in _cuts(size)]

    def add(self, index: int, frame: bytes) -> None:
        """Put the next chunk in its place; raises SnapshotError."""
        if index != self._num_added:
            raise SnapshotError(f"chunk {index}: comes after {self._num_added} others")
        kept, skipped, (start, stop) = self._places[index]
        try:
            # The declared size is what zstandard allocates, so it is compared first.
            if zstandard.frame_content_size(frame) != stop - start:
                raise SnapshotError(f"chunk {index}: declares another size than {stop - start}")
            data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise SnapshotError(f"chunk {index}: {error}") from error
        if len(data) != stop - start:
            raise SnapshotError(f"chunk {index}: {len(data)} bytes for {stop - start}")
        self._digest.update(data)
        self._num_added += 1
        if stop > skipped:
            first = max(start, skipped)
            kept[first - skipped : stop - skipped] = memoryview(data)[first - start :]

    def finish(self) -> Arrays:
        """Return the arrays if all their bytes are the ones that were hashed."""
        if self._digest.hexdigest() != self._header.sha256:
            raise SnapshotError("arrays: the checksum does not match")
        return self._arrays


def _first_line(error: ValueError) -> str:
    """Shorten what is said of a bad field; the field itself may be long."""
    return " ".join(str(error).split())[:200]


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


_POINTER, _HEADER = TypeAdapter(Pointer), TypeAdapter(Header)
