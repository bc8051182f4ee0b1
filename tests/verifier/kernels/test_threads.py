"""Threads share a kernel, each with memory of its own, and torch keeps its settings."""

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch

from verifier.kernels import threads, vectors
from verifier.kernels.sharing import take_ticket
from verifier.kernels.team import Team, team_of
from verifier.kernels.threads import (
    NUM_SHARED,
    SCRATCH,
    SCRATCH_SIZE,
    THREAD,
    TICKET,
    Call,
    kernels_only,
)

NUM_PIECES = 4000
COUNTS = NUM_SHARED  # where the pieces that were taken are counted, one integer each


@numba.cfunc(numba.types.void(numba.types.int64))
def _count_pieces(call: int) -> None:
    """Take pieces of work; write the thread's number all over its memory; see that it stays."""
    thread = take_ticket(call + 8 * THREAD)
    size = vectors.load_int(call + 8 * SCRATCH_SIZE)
    begin = vectors.load_int(call + 8 * SCRATCH) + thread * size
    for at in range(begin, begin + size, 8):
        vectors.store_int(at, thread)
    piece = take_ticket(call + 8 * TICKET)
    while piece < NUM_PIECES:
        same = 1
        for at in range(begin, begin + size, 8):
            if vectors.load_int(at) != thread:
                same = 0
        counts = vectors.load_int(call + 8 * COUNTS)
        vectors.store_int(counts + 8 * piece, same + vectors.load_int(counts + 8 * piece))
        piece = take_ticket(call + 8 * TICKET)


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


def in_thread(work: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_piece_is_done_once_by_at_most_as_many_threads_as_torch_has(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    call = Call(_count_pieces, NUM_SHARED + 1)
    for _ in range(20):
        with kernels_only():
            assert torch.get_num_threads() == 1
            for _ in range(20):
                assert run(call) == [1] * NUM_PIECES
                assert 1 <= call.fields[THREAD] <= num_threads
        assert torch.get_num_threads() == num_threads


def test_helpers_come_while_a_pass_lasts_and_only_then() -> None:
    call = Call(_count_pieces, NUM_SHARED + 1)
    run(call)
    assert call.fields[THREAD] == 1
    deadline = time.monotonic() + 60
    with kernels_only():
        while call.fields[THREAD] == 1:
            assert time.monotonic() < deadline, "nobody came to help"
            run(call)
    run(call)
    assert call.fields[THREAD] == 1


def test_nobody_waits_for_a_helper_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(2)
    monkeypatch.setattr(team, "_libc", SimpleNamespace(sem_post=lambda semaphore: None))  # asleep
    call = Call(_count_pieces, NUM_SHARED + 1)
    with team.awake() as threads._local.team:
        assert run(call) == [1] * NUM_PIECES
    threads._local.team = None
    assert call.fields[THREAD] == 1


def test_a_second_caller_works_alone_while_the_first_one_has_the_helpers() -> None:
    call = Call(_count_pieces, NUM_SHARED + 1)

    def counted() -> tuple[list[int], int]:
        with kernels_only():
            return run(call), int(call.fields[THREAD])

    with kernels_only():
        assert in_thread(counted) == ([1] * NUM_PIECES, 1)


def test_the_same_team_helps_in_all_passes() -> None:
    before = threading.active_count()
    for _ in range(50):
        with kernels_only():
            pass
    assert threading.active_count() <= before + 1
    assert team_of(2) is team_of(2)
    assert team_of(1) is None


def test_torch_has_its_threads_back_after_an_error() -> None:
    with pytest.raises(KeyError), kernels_only():
        raise KeyError("in a pass")
    assert torch.get_num_threads() == 2


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
    assert all(b - a >= 65536 for a, b in pairwise(starts))
    assert address(8192) == largest
