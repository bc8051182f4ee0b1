"""One log entry: token runs, and who wrote them: producer, boot epoch, sequence number.

The bytes are a fixed header and a small zstd frame; a reader trusts nothing it has not checked.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from drafter.trie.token_run import MAX_TOKEN_ID, TokenRun

MAX_RUN_TOKENS = 1 << 16
MAX_ENTRY_TOKENS = 1 << 16
MAX_ENTRY_RUNS = 4096

_MAGIC = b"LE"
_VERSION = 1
_HEAD = struct.Struct("<2sBxI")  # magic, version, CRC-32 of all that follows
_IDENTITY = struct.Struct("<16sQQHHI")  # producer, boot, sequence, attempt, runs, tokens
_MAX_BODY_LEN = 4 * (MAX_ENTRY_TOKENS + MAX_ENTRY_RUNS)


class EntryError(ValueError):
    """The bytes are not an entry that this version can read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Token runs and who wrote them. A retry keeps the identity and raises `attempt`."""

    producer: bytes  # 16 bytes
    boot_epoch: int
    sequence: int
    runs: tuple[TokenRun, ...]
    # Tells a retry from its original, so that (entry id, bytes) names one point in one history.
    attempt: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(run) for run in self.runs)


def encode(entry: Entry) -> bytes:
    """Pack an entry; raises ValueError when it is beyond what a reader accepts."""
    if not 0 < len(entry.runs) <= MAX_ENTRY_RUNS or entry.num_tokens > MAX_ENTRY_TOKENS:
        raise ValueError(f"runs: {len(entry.runs)} with {entry.num_tokens} tokens do not fit")
    if len(entry.producer) != 16:
        raise ValueError(f"producer: {entry.producer!r} is not 16 bytes")
    lengths = np.array([len(run) for run in entry.runs], np.uint32)
    body = np.concatenate([lengths.view(np.int32), *entry.runs]).astype("<i4", copy=False)
    rest = _IDENTITY.pack(
        entry.producer,
        entry.boot_epoch,
        entry.sequence,
        min(entry.attempt, 0xFFFF),
        len(entry.runs),
        entry.num_tokens,
    ) + zstandard.ZstdCompressor(level=3).compress(body.tobytes())
    return _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(rest)) + rest


def decode(data: bytes) -> Entry:
    """Unpack an entry; raises EntryError naming what is wrong; inflates within limits."""
    if len(data) < _HEAD.size + _IDENTITY.size:
        raise EntryError(f"entry: {len(data)} bytes are too few")
    magic, version, checksum = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise EntryError(f"entry: magic {magic!r} version {version} is unknown")
    if zlib.crc32(memoryview(data)[_HEAD.size :]) != checksum:
        raise EntryError("entry: the checksum does not match")
    fields = _IDENTITY.unpack_from(data, _HEAD.size)
    producer, boot_epoch, sequence, attempt, num_runs, num_tokens = fields
    body_len = 4 * (num_runs + num_tokens)
    body = np.frombuffer(inflate(data[_HEAD.size + _IDENTITY.size :], body_len), "<i4")
    runs = _split(body[:num_runs].view(np.uint32), body[num_runs:])
    return Entry(producer, boot_epoch, sequence, runs, attempt)


def inflate(frame: bytes, expected_len: int) -> bytes:
    """Decompress a zstd frame that must hold exactly `expected_len` bytes."""
    try:
        declared_len = zstandard.frame_content_size(frame)
        if declared_len != expected_len or expected_len > _MAX_BODY_LEN:
            raise EntryError(f"frame: {declared_len} bytes declared, {expected_len} expected")
        data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EntryError(f"frame: {error}") from error
    if len(data) != expected_len:
        raise EntryError(f"frame: {len(data)} bytes inflated, {expected_len} expected")
    return data


def _split(lengths: NDArray[np.uint32], tokens: NDArray[np.int32]) -> tuple[TokenRun, ...]:
    """Cut the tokens into runs."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends) or ends[-1] != len(tokens):
        raise EntryError(f"runs: {len(ends)} lengths do not add up to {len(tokens)} tokens")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() <= MAX_TOKEN_ID:
        raise EntryError(f"runs: {tokens.min()} to {tokens.max()} are not token ids")
    return tuple(np.split(tokens, ends[:-1]))
