"""Threads that help with kernels: asleep between passes, awake while one lasts.

A kernel is shared with whoever is there. A helper that the operating system keeps from coming finds
the call closed, and nobody has waited for it. So a pass beside other work loses the helper's part,
and not its time. OpenMP's teams wait for each of their threads, in each of some hundreds of calls.
"""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from verifier.kernels.compile import entry
from verifier.kernels.sharing import enter, read, set_bits, sleep, spin, take_ticket, write

# What a team shares: integers, by offset in bytes, each in a cache line of its own.
IS_AWAKE, GATE, ENTRY, CALL, NUM_DONE, SEMAPHORE, SIZE = range(0, 64 * 7, 64)
# The gate: the call's number in the high bits, whether it is closed, and how many came in.
CLOSED = 1 << 15
NUMBER = 16


def _help(team: int) -> None:
    """What a helper does, for as long as the process lives."""
    number = 0
    while True:
        sleep(team + SEMAPHORE)
        num_spins = 0
        while read(team + IS_AWAKE):
            gate = read(team + GATE)
            if gate & CLOSED or gate >> NUMBER == number:
                num_spins = spin(num_spins)
                continue
            gate = take_ticket(team + GATE)
            if gate & CLOSED:  # in between
                continue
            number, num_spins = gate >> NUMBER, 0
            enter(read(team + ENTRY), read(team + CALL))
            take_ticket(team + NUM_DONE)


def _share(team: int) -> None:
    """Open a call, take part in it, close it, and wait for those who came in."""
    number = (read(team + GATE) >> NUMBER) + 1
    write(team + NUM_DONE, 0)
    write(team + GATE, number << NUMBER)
    enter(read(team + ENTRY), read(team + CALL))
    num_helpers = set_bits(team + GATE, CLOSED) & (CLOSED - 1)
    num_spins = 0
    while read(team + NUM_DONE) < num_helpers:
        num_spins = spin(num_spins)


class Team:
    """So many threads: the caller's, and helpers."""

    def __init__(self, num_threads: int) -> None:
        self._memory = np.zeros(SIZE // 8 + 8, np.int64)
        start = self._memory.ctypes.data
        self._address = start + -start % 64
        self._fields = self._memory[(self._address - start) // 8 :]
        self._fields[GATE // 8] = CLOSED
        self.num_threads = num_threads
        self._libc = ctypes.PyDLL(None)
        self._semaphore = ctypes.c_void_p(self._address + SEMAPHORE)
        self._libc.sem_init(self._semaphore, 0, 0)
        self._share, help_with = entry(_share).ctypes, entry(_help).ctypes
        self._in_use = threading.Lock()
        for _ in range(num_threads - 1):
            threading.Thread(target=help_with, args=(self._address,), daemon=True).start()

    @contextmanager
    def awake(self) -> Iterator["Team | None"]:
        """Have the helpers ready; nobody is where another thread has them."""
        if not self._in_use.acquire(blocking=False):
            yield None
            return
        self._fields[IS_AWAKE // 8] = 1
        for _ in range(self.num_threads - 1):
            self._libc.sem_post(self._semaphore)
        try:
            yield self
        finally:
            self._fields[IS_AWAKE // 8] = 0
            self._in_use.release()

    def run(self, kernel: int, call: int) -> None:
        """Run the kernel at an address, with the address of its call."""
        self._fields[ENTRY // 8], self._fields[CALL // 8] = kernel, call
        self._share(self._address)


@cache
def team_of(num_threads: int) -> Team | None:
    """The process's team of a size; None where there is nobody to help, or no way to wait."""
    return Team(num_threads) if num_threads > 1 and sys.platform == "linux" else None
