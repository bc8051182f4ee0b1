"""A suffix trie without nodes: a ring of tokens, and chains which lead to every place of a context.

A trie node is the set of places where its path ends, so nothing is stored per node: appending is a
few stores per token, the oldest tokens make way, and the tokens alone rebuild the index.
"""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import trie as kernels
from drafter.kernels.dispatch import dispatch
from drafter.trie.snapshot import digest
from drafter.trie.token_run import MAX_TOKEN_ID, TokenRun, as_run

MIN_CAPACITY = 1 << 8
MAX_CAPACITY = 1 << 26
DEFAULT_MAX_BYTES = 1 << 30
_INTS_PER_TOKEN = 1 + 2 * kernels.NUM_ORDERS
# Positions are int32; well before they run out, the live tokens are renumbered from zero.
_MAX_POSITION = 1 << 30
# Fewer tokens than this are indexed afresh in a few milliseconds.
_SMALL = 1 << 16
_BOUNDARY = np.array([kernels.BOUNDARY], np.int32)


class Trie:
    """Learned token runs, bounded in bytes, oldest tokens evicted first. One thread at a time."""

    def __init__(
        self,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        capacity: int = 0,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """`lock`: held while a run is learned, where another thread drafts from the trie."""
        self._lock = lock or nullcontext()
        self._max_capacity = largest_capacity(max_bytes)
        self._renumbered = 0
        self._room = 0  # so many tokens may come before the arena has to be looked at
        self.arena = _EMPTY
        if capacity:
            self.arena = _new_arena(min(_power_of_two(capacity), self._max_capacity))

    @property
    def num_tokens(self) -> int:
        """Live tokens, the boundaries between runs included."""
        return int(self.arena[kernels.HEAD]) - int(self.arena[kernels.TAIL])

    @property
    def num_learned(self) -> int:
        """Tokens and boundaries ever appended, evicted ones included."""
        return self._renumbered + int(self.arena[kernels.HEAD])

    @property
    def num_bytes(self) -> int:
        """Memory reserved for the tokens and their index; nothing before the first token."""
        return 0 if self.arena is _EMPTY else self.arena.nbytes

    @property
    def crowded(self) -> bool:
        """Tell whether learning will soon index everything afresh; a restored export has room."""
        capacity, head = len(self._ring()), int(self.arena[kernels.HEAD])
        full = capacity < self._max_capacity and 4 * self.num_tokens >= 3 * capacity
        return capacity > _SMALL and (full or head > _MAX_POSITION - _SMALL)

    def learn(self, token_ids: TokenRun) -> None:
        """Append a finished run and the boundary that no match crosses."""
        run = as_run("token_ids", token_ids)
        if len(run):
            with self._lock:
                self._append(run)
                self._append(_BOUNDARY)

    def append(self, token_ids: TokenRun) -> None:
        """Append to the run at the end; each new suffix can be matched at once."""
        self._append(as_run("token_ids", token_ids))

    def end_run(self) -> None:
        """Close the run at the end with a boundary."""
        self._append(_BOUNDARY)

    def reserve(self, num_tokens: int) -> None:
        """Make room for that many more tokens, so that a kernel may append them."""
        self._room -= num_tokens
        if self._room < 0:
            self._make_room(num_tokens)

    def live_tokens(self, start: int = 0) -> NDArray[np.int32]:
        """Copy the live tokens, oldest first, -1 at boundaries; `start` skips the first ones."""
        head, tail = int(self.arena[kernels.HEAD]), int(self.arena[kernels.TAIL])
        ring = self._ring()
        first, last = (tail + start) % len(ring), head % len(ring)
        if tail + start >= head:
            return np.empty(0, np.int32)
        if first < last:
            return ring[first:last].copy()
        return np.concatenate([ring[first:], ring[:last]])

    def digest(self) -> str:
        """Hash the live tokens, their boundaries and how many were ever learned.

        Tries with one byte limit that learned the same runs in the same order agree, however they
        came there: by learning, or by restoring an export.
        """
        return digest(self.export())

    def export(self) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
        """Return what restores this trie: the live tokens. The index is rebuilt from them."""
        return {"tokens": self.live_tokens(), "num_learned": np.array([self.num_learned])}

    def restore(self, arrays: dict[str, NDArray[np.int32] | NDArray[np.int64]]) -> None:
        """Become the exported trie; ValueError names what is wrong, and then nothing changed."""
        tokens, num_learned = _checked_export(arrays)
        live = tokens[max(0, len(tokens) - self._max_capacity) :]
        # With room to grow: the copy of a crowded trie is not crowded.
        self._rebuild(live, min(_power_of_two(len(live) * 3 // 2), self._max_capacity))
        self._renumbered = num_learned - len(live)

    def check(self) -> None:
        """Walk all invariants; AssertionError names the first that does not hold."""
        capacity = len(self._ring())
        assert capacity & (capacity - 1) == 0, f"capacity {capacity} is no power of two"
        assert 0 <= self.num_tokens <= capacity, f"{self.num_tokens} tokens in {capacity} slots"
        assert self._renumbered >= 0, f"renumbered by {self._renumbered}"
        tokens = self.live_tokens()
        legal = (tokens >= kernels.BOUNDARY) & (tokens <= MAX_TOKEN_ID)
        assert legal.all(), "a token is no token id"
        self._check_index(tokens, capacity)

    def _check_index(self, tokens: NDArray[np.int32], capacity: int) -> None:
        """Compare every link and head with those of an index built afresh."""
        tail = int(self.arena[kernels.TAIL])
        fresh = _new_arena(capacity)
        fresh[kernels.HEAD] = fresh[kernels.TAIL] = tail
        dispatch.append_tokens(fresh, tokens, len(tokens))
        # Contexts that reach back over the tail lost their front when it was evicted.
        oldest = tail + kernels.MAX_ORDER
        slots = np.arange(tail, tail + len(tokens)) & (capacity - 1)
        links = [_links(arena)[slots[kernels.MAX_ORDER :]] for arena in (self.arena, fresh)]
        heads = [_heads(arena) for arena in (self.arena, fresh)]
        assert np.array_equal(_tallies(self.arena), _tallies(fresh)), "a tally is wrong"
        for name, (ours, theirs) in (("link", links), ("head", heads)):
            same = np.where(ours > oldest, ours, 0) == np.where(theirs > oldest, theirs, 0)
            assert same.all(), f"a {name} differs from a fresh index"

    def _append(self, run: TokenRun) -> None:
        self.reserve(len(run))
        if not run.flags.writeable:
            run = run.copy()  # another type to the compiler, which would compile once more
        dispatch.append_tokens(self.arena, run, len(run))

    def _make_room(self, num_tokens: int) -> None:
        """Grow or renumber where needed; count how many more tokens need neither."""
        head, capacity = self.arena.item(kernels.HEAD), self.arena.item(kernels.CAPACITY)
        needed = self.num_tokens + num_tokens
        full = needed > capacity < self._max_capacity
        if self.arena is _EMPTY or full or head + num_tokens > _MAX_POSITION:
            self._rebuild(self.live_tokens(), min(_power_of_two(needed), self._max_capacity))
            head, capacity = self.arena.item(kernels.HEAD), self.arena.item(kernels.CAPACITY)
        self._room = _MAX_POSITION - head - num_tokens
        if capacity < self._max_capacity:
            self._room = min(self._room, capacity - needed)

    def _rebuild(self, live: NDArray[np.int32], capacity: int) -> None:
        """Index the live tokens afresh in a ring of that capacity, numbered from zero."""
        learned = self.num_learned
        self.arena = _new_arena(max(capacity, MIN_CAPACITY))
        self._room = 0
        dispatch.append_tokens(self.arena, live, len(live))
        self._renumbered = learned - len(live)

    def _ring(self) -> NDArray[np.int32]:
        capacity = int(self.arena[kernels.CAPACITY])
        return self.arena[kernels.HEADER_LEN : kernels.HEADER_LEN + capacity]


def _new_arena(capacity: int) -> NDArray[np.int32]:
    """Zeroed, so the system hands out its pages as they are first used."""
    arena = np.zeros(_arena_len(capacity), np.int32)
    arena[kernels.CAPACITY] = arena[kernels.NUM_HEADS] = capacity
    arena[kernels.NUM_TALLIES] = min(capacity, kernels.MAX_TALLIES)
    return arena


def _links(arena: NDArray[np.int32]) -> NDArray[np.int32]:
    capacity = int(arena[kernels.CAPACITY])
    start = kernels.HEADER_LEN + capacity
    return arena[start : start + kernels.NUM_ORDERS * capacity].reshape(-1, kernels.NUM_ORDERS)


def _heads(arena: NDArray[np.int32]) -> NDArray[np.int32]:
    capacity = int(arena[kernels.CAPACITY])
    start = kernels.HEADER_LEN + capacity * (1 + kernels.NUM_ORDERS)
    return arena[start : start + capacity * kernels.NUM_ORDERS]


def _tallies(arena: NDArray[np.int32]) -> NDArray[np.int32]:
    stop = len(arena) - kernels.NUM_LEADERS
    return arena[stop - int(arena[kernels.NUM_TALLIES]) : stop]


def _power_of_two(number: int) -> int:
    return max(MIN_CAPACITY, 1 << max(number - 1, 0).bit_length())


def largest_capacity(max_bytes: int) -> int:
    """Return how many tokens a trie of at most so many bytes may hold."""
    capacity = MAX_CAPACITY
    while 4 * _arena_len(capacity) > max_bytes:
        capacity //= 2
    if capacity < MIN_CAPACITY:
        raise ValueError(f"max_bytes: {max_bytes} is too small for {MIN_CAPACITY} tokens")
    return capacity


def _arena_len(capacity: int) -> int:
    tallies = min(capacity, kernels.MAX_TALLIES) + kernels.NUM_LEADERS
    return kernels.HEADER_LEN + _INTS_PER_TOKEN * capacity + tallies


def _checked_export(
    arrays: dict[str, NDArray[np.int32] | NDArray[np.int64]],
) -> tuple[NDArray[np.int32], int]:
    if set(arrays) != {"tokens", "num_learned"}:
        raise ValueError(f"arrays: {sorted(arrays)} are not tokens and num_learned")
    tokens, learned = np.asarray(arrays["tokens"]), np.asarray(arrays["num_learned"])
    if tokens.ndim != 1 or tokens.dtype != np.int32:
        raise ValueError(f"tokens: {tokens.dtype} of shape {tokens.shape} is not a row of int32")
    if learned.shape != (1,) or learned.dtype != np.int64:
        raise ValueError(f"num_learned: {learned.dtype} of shape {learned.shape} is not one int64")
    if len(tokens) and (tokens.min() < kernels.BOUNDARY or tokens.max() > MAX_TOKEN_ID):
        raise ValueError(f"tokens: {tokens.min()} to {tokens.max()} are not token ids")
    if not len(tokens) <= learned[0] < 1 << 62:
        raise ValueError(f"num_learned: {learned[0]} for {len(tokens)} tokens")
    return tokens.astype(np.int32), int(learned[0])


# What all tries without a token have in common; nothing writes to it.
_EMPTY = _new_arena(MIN_CAPACITY)
