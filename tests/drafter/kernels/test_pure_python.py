"""A drafter that just started drafts by the interpreter, and nobody can tell by its drafts."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.drafting import session as session_module
from drafter.drafting.sessions import DraftSessions
from drafter.kernels import addresses, candidates, evidence, occurrences, turn
from drafter.kernels import dispatch as module
from drafter.kernels import trie as kernels_trie
from drafter.kernels.compile import Index
from drafter.kernels.dispatch import SIGNATURES, Dispatch, pure_python
from drafter.trie import trie

AT_ONCE = """
import sys
from drafter.kernels.dispatch import dispatch
dispatch.compile_in_background()
from drafter.drafting.sessions import DraftSessions
sessions = DraftSessions()
sessions.open(1, space="a", token_ids=[1, 2, 3] * 4)
tree = sessions.propose(1, 4)
assert tree.token_ids.tolist() == [1, 2, 3, 1], tree
assert not dispatch.is_compiled(), "the draft waited for the compiler"
sessions.learn("a", list(range(5000)))  # so long a run waits, and is learned all the same
assert sessions.trie("a").num_tokens == 5001
assert dispatch.is_compiled(300)
assert hasattr(dispatch.take_turns, "py_func")
sessions.observe(1, [1, 2])
assert sessions.propose(1, 2).token_ids.tolist() == [3, 1]
sessions.check()
"""


# Small enough that both rings wrap around and evict in a text of that length.
LOCAL_SLOTS, SHARED_SLOTS, TEXT_LEN = 32, 64, 90
BYTES = {slots: 4 * trie._arena_len(slots) for slots in (LOCAL_SLOTS, SHARED_SLOTS)}


@dataclass(frozen=True)
class Text:
    """A pattern that comes again and again, with some of its tokens replaced."""

    pattern: list[int]
    replaced: dict[int, int]
    num_prompt: int
    num_nodes: int
    num_emitted: int

    def token_ids(self) -> np.ndarray:
        tokens = np.resize(np.array(self.pattern, np.int32), TEXT_LEN)
        for position, token in self.replaced.items():
            tokens[position] = token
        return tokens


TEXTS = st.builds(
    Text,
    pattern=st.lists(st.integers(0, 40), min_size=1, max_size=50),
    replaced=st.dictionaries(st.integers(0, TEXT_LEN - 1), st.integers(0, 8), max_size=9),
    num_prompt=st.integers(1, LOCAL_SLOTS + 9),
    num_nodes=st.integers(0, 8),
    num_emitted=st.integers(3, 24),
)


def played(texts: list[Text]) -> list[np.ndarray]:
    """Draft along the texts, learn them, and return all that was drafted and learned."""
    sessions = DraftSessions(max_namespace_bytes=BYTES[SHARED_SLOTS])
    seen: list[np.ndarray] = []
    for sequence_id, text in enumerate(texts):
        tokens = text.token_ids()
        sessions.open(sequence_id, space="a", token_ids=tokens[: text.num_prompt])
        for start in range(text.num_prompt, len(tokens), text.num_emitted):
            tree = sessions.propose(sequence_id, text.num_nodes)
            seen += [tree.token_ids, tree.parents, tree.probabilities, tree.sources]
            emitted = tokens[start : start + text.num_emitted]
            rows = [[int(token) + 1, *range(100, 107)] for token in emitted]
            sessions.observe(sequence_id, emitted, successors=rows)
        seen.append(sessions._session(sequence_id).local.arena)
        sessions.close(sequence_id)
        sessions.learn("a", tokens)
    sessions.check()
    memory = sessions.memory("a")
    assert memory.trie.num_learned > SHARED_SLOTS, "the ring did not wrap"
    return [*seen, memory.trie.arena, memory.calibration.model, memory.successors.table]


class FromZero(np.ndarray):
    """An array that refuses an index past its end, or one that counts back from there."""

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        return super().__getitem__(index)

    def __setitem__(self, index, value):  # type: ignore[no-untyped-def]
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        super().__setitem__(index, value)


@cache
def watched_kernels() -> dict[str, Callable[..., int]]:
    """Return the kernels by the interpreter, over arrays and tables that refuse a bad index."""
    with pytest.MonkeyPatch.context() as patch:
        for file in (candidates, evidence, kernels_trie, occurrences):
            for name, value in list(vars(file).items()):
                if isinstance(value, np.ndarray):
                    patch.setattr(file, name, value.view(FromZero))
        for name in ("ints_at", "floats_at"):
            patch.setattr(turn, name, watched_at(getattr(addresses, name)))
        return {kernel.py_func.__name__: watched(pure_python(kernel)) for kernel in SIGNATURES}


def watched_at(array_at: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda address, length: array_at(address, length).view(FromZero)


def watched(function: Callable[..., int]) -> Callable[..., int]:
    def run(*arguments: Any) -> int:
        views = (a.view(FromZero) if isinstance(a, np.ndarray) else a for a in arguments)
        return function(*views)

    return run


@contextmanager
def small_rings() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie, "MIN_CAPACITY", LOCAL_SLOTS)
        patch.setattr(session_module, "MAX_LOCAL_BYTES", BYTES[LOCAL_SLOTS])
        yield patch


@pytest.mark.slow
@given(texts=st.lists(TEXTS, min_size=1, max_size=2))
@settings(max_examples=12, deadline=None)
def test_the_interpreter_does_bit_for_bit_what_is_compiled_and_no_index_is_out_of_range(
    texts: list[Text],
) -> None:
    Dispatch().compile()  # from the tables as they are, before any is watched
    with small_rings() as patch:  # watched first: compiled, a bad index would end the process
        for name, kernel in watched_kernels().items():
            patch.setattr(module.dispatch, name, kernel)
        plain = played(texts)
    with small_rings():
        compiled = played(texts)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("index", [-1, 4, np.int64(-1), Index(np.int64(-1)), Index(4)])
def test_a_watched_array_refuses_an_index_out_of_range(index: int) -> None:
    array = np.zeros(4, np.int32).view(FromZero)
    with pytest.raises(AssertionError):
        array[index]
    with pytest.raises(AssertionError):
        array[index] = 1


def test_every_kernel_is_compiled_for_the_one_kind_of_call_that_is_made() -> None:
    Dispatch().compile()
    numbers = {kernel: len(kernel.signatures) for kernel in SIGNATURES}
    sessions = DraftSessions()
    frozen = np.arange(300, dtype=np.int32)
    frozen.flags.writeable = False  # as the log's entries are
    sessions.learn("a", frozen)
    sessions.open(1, space="a", token_ids=frozen[:9])
    sessions.observe(1, [9], successors=[[10]])
    sessions.propose(1, 70)
    assert {kernel: len(kernel.signatures) for kernel in SIGNATURES} == numbers


@pytest.mark.slow
@pytest.mark.timeout(400)  # the compiler runs from the beginning
def test_the_first_draft_does_not_wait_for_the_compiler(tmp_path: Path) -> None:
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", AT_ONCE], env=environ, check=True, timeout=300)
