"""A drafter that just started drafts by the interpreter, and nobody can tell by its drafts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drafter.drafting.propose import DraftTree
from drafter.drafting.sessions import DraftSessions
from drafter.kernels import dispatch as module
from drafter.kernels.dispatch import SIGNATURES, Dispatch, pure_python

AT_ONCE = """
import sys
from drafter.kernels.dispatch import dispatch
dispatch.compile_in_background()
from drafter.drafting.sessions import DraftSessions
sessions = DraftSessions()
sessions.open(1, namespace="a", token_ids=[1, 2, 3] * 4)
tree = sessions.propose(1, 4)
assert tree.token_ids.tolist() == [1, 2, 3, 1], tree
assert not dispatch.is_compiled(), "the draft waited for the compiler"
sessions.learn("a", list(range(5000)))  # so long a run waits, and is learned all the same
assert sessions.trie("a").num_tokens == 5001
assert dispatch.is_compiled(300)
assert hasattr(dispatch.propose, "py_func")
sessions.observe(1, [1, 2])
assert sessions.propose(1, 2).token_ids.tolist() == [3, 1]
sessions.check()
"""


def played() -> tuple[list[DraftTree], np.ndarray]:
    """Draft along a text that repeats itself with changes, in a memory that learns."""
    chooser = np.random.default_rng(5)
    text = np.tile(chooser.integers(0, 90, 40), 4)
    text[chooser.integers(0, len(text), 16)] = 7
    sessions = DraftSessions()
    trees = []
    for sequence_id in range(2):
        sessions.open(sequence_id, namespace="a", token_ids=text[:60])
        for position in range(60, 110, 2):
            trees.append(sessions.propose(sequence_id, 12))
            rows = [[int(text[position]) + 1, *range(100, 107)]] * 2
            sessions.observe(sequence_id, text[position : position + 2], successors=rows)
        sessions.close(sequence_id)
    sessions.check()
    return trees, sessions.memory("a").calibration.model


def test_the_interpreter_drafts_and_learns_bit_for_bit_like_the_compiled_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, compiled_model = played()
    for kernel in SIGNATURES:
        monkeypatch.setattr(module.dispatch, kernel.py_func.__name__, pure_python(kernel))
    plain, plain_model = played()
    for ours, theirs in zip(compiled, plain, strict=True):
        assert np.array_equal(ours.token_ids, theirs.token_ids)
        assert np.array_equal(ours.parents, theirs.parents)
        assert np.array_equal(ours.probabilities, theirs.probabilities)
        assert np.array_equal(ours.sources, theirs.sources)
    assert np.array_equal(compiled_model, plain_model)


class FromZero(np.ndarray):
    """An array that no index may count back from the end of: compiled kernels do not look."""

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        return super().__getitem__(index)

    def __setitem__(self, index, value):  # type: ignore[no-untyped-def]
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        super().__setitem__(index, value)


def test_no_kernel_counts_back_from_the_end_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(function: Callable[..., int]) -> Callable[..., int]:
        def run(*arguments: Any) -> int:
            views = (a.view(FromZero) if isinstance(a, np.ndarray) else a for a in arguments)
            return function(*views)

        return run

    for kernel in SIGNATURES:
        name = kernel.py_func.__name__
        monkeypatch.setattr(module.dispatch, name, watched(pure_python(kernel)))
    played()


def test_every_kernel_is_compiled_for_the_one_kind_of_call_that_is_made() -> None:
    Dispatch().compile()
    numbers = {kernel: len(kernel.signatures) for kernel in SIGNATURES}
    sessions = DraftSessions()
    frozen = np.arange(300, dtype=np.int32)
    frozen.flags.writeable = False  # as the log's entries are
    sessions.learn("a", frozen)
    sessions.open(1, namespace="a", token_ids=frozen[:9])
    sessions.observe(1, [9], successors=[[10]])
    sessions.propose(1, 70)
    assert {kernel: len(kernel.signatures) for kernel in SIGNATURES} == numbers


def test_the_first_draft_does_not_wait_for_the_compiler(tmp_path: Path) -> None:
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", AT_ONCE], env=environ, check=True, timeout=300)
