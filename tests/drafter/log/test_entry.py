"""Log entries survive the round trip, and nothing else gets through."""

import random
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from drafter.log.entry import MAX_ENTRY_TOKENS, Entry, EntryError, decode, encode
from drafter.trie.token_run import MAX_TOKEN_ID

PRODUCER = bytes(range(16))
RUNS = st.lists(st.lists(st.integers(0, MAX_TOKEN_ID), max_size=50), min_size=1, max_size=8)


def entry(runs: list[list[int]], **changes: int) -> Entry:
    rows = tuple(np.array(run, np.int32) for run in runs)
    return Entry(PRODUCER, changes.get("boot", 1), changes.get("sequence", 1), rows)


def with_checksum(rest: bytes) -> bytes:
    return b"LE\x01\x00" + zlib.crc32(rest).to_bytes(4, "little") + rest


@given(RUNS, st.integers(0, 2**63), st.integers(0, 2**63))
def test_what_is_written_is_read(runs: list[list[int]], boot: int, sequence: int) -> None:
    found = decode(encode(entry(runs, boot=boot, sequence=sequence)))
    assert [run.tolist() for run in found.runs] == runs
    assert (found.producer, found.boot_epoch, found.sequence) == (PRODUCER, boot, sequence)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EntryError):
        decode(data)


def test_every_flipped_bit_and_every_truncation_is_refused() -> None:
    data = encode(entry([[1, 2, 3], [70_000]]))
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        if broken[3] != data[3]:
            continue  # the padding byte means nothing
        with pytest.raises(EntryError):
            decode(bytes(broken))
    for length in range(len(data)):
        with pytest.raises(EntryError):
            decode(data[:length])


@pytest.mark.parametrize("tokens", [[-1], [2**31 - 1]])
def test_entry_with_right_checksum_and_wrong_token_is_refused(tokens: list[int]) -> None:
    with pytest.raises(EntryError, match="token ids"):
        decode(encode(entry([tokens])))


def test_frame_that_inflates_to_more_than_declared_is_refused() -> None:
    honest = encode(entry([[1, 2, 3]]))[8:]
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(EntryError, match="declared"):
        decode(with_checksum(honest[:40] + bomb))


def test_random_tails_behind_a_valid_checksum_are_refused() -> None:
    rng = random.Random(5)
    honest = encode(entry([[1, 2, 3]]))[8:]
    for _ in range(2000):
        tail = rng.randbytes(rng.randrange(60))
        with pytest.raises(EntryError):
            decode(with_checksum(honest[:40] + tail))


def test_entry_beyond_the_limits_is_never_written() -> None:
    with pytest.raises(ValueError, match="runs"):
        encode(entry([[0] * (MAX_ENTRY_TOKENS + 1)]))
    with pytest.raises(ValueError, match="runs"):
        encode(entry([]))
    with pytest.raises(ValueError, match="producer"):
        encode(Entry(b"short", 1, 1, (np.zeros(1, np.int32),)))
