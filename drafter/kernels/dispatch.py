"""The way into the kernels. A process that starts need not wait until they are compiled."""

import logging
import threading
import time
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from drafter.kernels.trie import append_tokens
from drafter.kernels.turn import take_turns

logger = logging.getLogger(__name__)

_INTS, _LONGS, _FLOATS = "int32[::1]", "int64[::1]", "float32[::1]"
# In the order in which they are compiled; every call has these types, so each compiles once.
SIGNATURES: dict[Any, tuple[str, ...]] = {
    append_tokens: (_INTS, _INTS, "int64"),
    take_turns: (_LONGS, _INTS, _INTS, _INTS, _FLOATS, _INTS, _FLOATS),
}
# A longer run waits for the compiler, which is quicker than the interpreter would be.
_MAX_INTERPRETED = 2048


class Dispatch:
    """The kernels as they are called now: compiled, or by the interpreter until they are."""

    def __init__(self) -> None:
        self.append_tokens = append_tokens
        self.take_turns = take_turns
        self._appends = threading.Event()
        self._compiled = threading.Event()

    def compile(self) -> None:
        """Compile all kernels, or load them from their cache."""
        for kernel, types in SIGNATURES.items():
            kernel.compile(f"({', '.join(types)})")
            setattr(self, kernel.py_func.__name__, kernel)
            if kernel is append_tokens:
                self._appends.set()
        self._compiled.set()

    def compile_in_background(self) -> None:
        """Let the interpreter run the kernels, and compile them in a thread."""
        for kernel in SIGNATURES:
            setattr(self, kernel.py_func.__name__, pure_python(kernel))
        self.append_tokens = self._or_wait(self.append_tokens)
        threading.Thread(target=self._compile, name="compile", daemon=True).start()

    def is_compiled(self, timeout_s: float = 0.0) -> bool:
        """Wait at most so long for the compiler; whether it is done."""
        return self._compiled.wait(timeout_s)

    def _compile(self) -> None:
        started = time.perf_counter()
        self.compile()
        logger.info("compiled seconds=%.1f", time.perf_counter() - started)

    def _or_wait(self, by_interpreter: Callable[..., None]) -> Callable[..., None]:
        def append(arena: Any, token_ids: Any, num_tokens: Any) -> None:
            if num_tokens <= _MAX_INTERPRETED:
                return by_interpreter(arena, token_ids, num_tokens)
            self._appends.wait()
            return append_tokens(arena, token_ids, num_tokens)

        return append


dispatch = Dispatch()


P = ParamSpec("P")
R = TypeVar("R")
Plain = dict[Any, FunctionType]


def pure_python(kernel: Callable[P, R]) -> Callable[P, R]:
    """Return the kernel's own source as a plain function, with all that it calls."""
    function = _plain(kernel, {})

    def run(*arguments: P.args, **named: P.kwargs) -> R:
        with np.errstate(over="ignore"):  # hashes wrap around, as they do when compiled
            return cast(R, function(*arguments, **named))

    return run


def _plain(kernel: Any, done: Plain) -> FunctionType:
    """Rebuild a compiled function over names that lead to plain functions."""
    if kernel not in done:
        source = kernel.py_func
        scope = dict(source.__globals__)
        done[kernel] = FunctionType(source.__code__, scope, source.__name__)
        for name in source.__code__.co_names:
            if name in scope:
                scope[name] = _plain_value(scope[name], source.__code__.co_names, done)
    return done[kernel]


def _plain_value(value: Any, names: tuple[str, ...], done: Plain) -> Any:
    if hasattr(value, "py_func"):
        return _plain(value, done)
    if isinstance(value, ModuleType) and value.__name__.startswith("drafter.kernels."):
        used = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return SimpleNamespace(**{n: _plain_value(v, (), done) for n, v in used.items()})
    return value
