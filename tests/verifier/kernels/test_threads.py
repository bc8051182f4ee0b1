"""A kernel runs in torch's threads, each with memory of its own, and torch keeps its settings."""

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pytest
import torch

from verifier.kernels import threads, vectors
from verifier.kernels.threads import (
    NUM_SHARED,
    SCRATCH,
    SCRATCH_SIZE,
    THREAD,
    TICKET,
    Call,
    kernels_only,
)

needs_pool = pytest.mark.skipif(threads._enter is None, reason="torch brings no GNU OpenMP")

NUM_PIECES = 4000
COUNTS = NUM_SHARED  # where the pieces that were taken are counted, one integer each


@numba.cfunc(numba.types.void(numba.types.int64))
def _count_pieces(call: int) -> None:
    """Take pieces of work; write the thread's number all over its memory; see that it stays."""
    thread = vectors.take_ticket(call + 8 * THREAD)
    size = vectors.load_int(call + 8 * SCRATCH_SIZE)
    begin = vectors.load_int(call + 8 * SCRATCH) + thread * size
    for at in range(begin, begin + size, 8):
        vectors.store_int(at, thread)
    piece = vectors.take_ticket(call + 8 * TICKET)
    while piece < NUM_PIECES:
        same = 1
        for at in range(begin, begin + size, 8):
            if vectors.load_int(at) != thread:
                same = 0
        counts = vectors.load_int(call + 8 * COUNTS)
        vectors.store_int(counts + 8 * piece, same + vectors.load_int(counts + 8 * piece))
        piece = vectors.take_ticket(call + 8 * TICKET)


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Two to begin with; give torch those back that it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(call: Call, scratch_size: int = 4096) -> list[int]:
    """How often each piece was taken by a thread whose memory was its own."""
    counts = np.zeros(NUM_PIECES, np.int64)
    call.fields[COUNTS] = counts.ctypes.data
    call.run(scratch_size)
    return counts.tolist()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_piece_is_done_once_by_as_many_threads_as_torch_has(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    call = Call(_count_pieces, NUM_SHARED + 1)
    for _ in range(3):
        assert run(call) == [1] * NUM_PIECES
        assert call.fields[THREAD] == (1 if threads._enter is None else num_threads)


def test_without_a_pool_one_thread_does_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_enter", None)
    call = Call(_count_pieces, NUM_SHARED + 1)
    assert run(call) == [1] * NUM_PIECES
    assert call.fields[THREAD] == 1


@needs_pool
def test_kernels_have_torchs_threads_while_its_own_operations_have_one() -> None:
    call = Call(_count_pieces, NUM_SHARED + 1)
    with kernels_only():
        assert torch.get_num_threads() == 1
        assert run(call) == [1] * NUM_PIECES
        assert call.fields[THREAD] == 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    run(call)
    assert call.fields[THREAD] == 1, "the number of before was kept"


def test_torch_has_its_threads_back_after_an_error() -> None:
    with pytest.raises(KeyError), kernels_only():
        raise KeyError("in a pass")
    assert torch.get_num_threads() == 2


def in_thread(work: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_the_limit_of_one_thread_is_not_that_of_another() -> None:
    call = Call(_count_pieces, NUM_SHARED + 1)

    def threads_elsewhere() -> int:
        torch.set_num_threads(1)
        run(call)
        return int(call.fields[THREAD])

    with kernels_only():
        assert in_thread(threads_elsewhere) == 1


def test_memory_to_work_in_belongs_to_a_thread_and_is_used_again() -> None:
    def address(size: int) -> int:
        call = Call(_count_pieces, NUM_SHARED + 1)
        run(call, size)
        return int(call.fields[SCRATCH])

    largest = address(65536)
    both = threading.Barrier(2, timeout=20)

    def addresses() -> tuple[int, int]:
        first = address(65536)
        both.wait()  # until both threads have theirs
        return first, address(8192)

    found: list[tuple[int, int]] = []
    others = [threading.Thread(target=lambda: found.append(addresses())) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert all(first == again for first, again in found)
    starts = sorted([largest, *(first for first, _ in found)])
    assert all(b - a >= 2 * 65536 for a, b in pairwise(starts))
    assert address(8192) == largest
