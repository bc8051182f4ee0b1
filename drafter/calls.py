"""The way into the kernels. A process that starts need not wait until they are compiled."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from drafter.interpreted import interpreted
from drafter.kernels_draft import propose
from drafter.kernels_observe import keep_successors, observe
from drafter.kernels_trie import append_tokens

logger = logging.getLogger(__name__)

_INTS, _FLOATS = "int32[::1]", "float32[::1]"
# In the order in which they are compiled; every call has these types, so each compiles once.
SIGNATURES: dict[Any, tuple[str, ...]] = {
    append_tokens: (_INTS, _INTS, "int64"),
    propose: (_INTS,) * 3 + (_FLOATS,) + (_INTS,) * 3 + (_FLOATS, "int64", "float64"),
    observe: (_INTS, _FLOATS) + (_INTS,) * 3 + ("int64", "int64"),
    keep_successors: (_INTS,) * 4 + ("int64",),
}
# A longer run waits for the compiler, which is quicker than the interpreter would be.
_MAX_INTERPRETED = 2048


class Calls:
    """The kernels as they are called now: compiled, or by the interpreter until they are."""

    def __init__(self) -> None:
        self.append_tokens = append_tokens
        self.propose = propose
        self.observe = observe
        self.keep_successors = keep_successors
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

    def compile_meanwhile(self) -> None:
        """Let the interpreter run the kernels, and compile them in a thread."""
        for kernel in SIGNATURES:
            setattr(self, kernel.py_func.__name__, interpreted(kernel))
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


calls = Calls()
