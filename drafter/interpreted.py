"""Runs a kernel by the interpreter: slow, with the same results, and ready before any compiler."""

from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
Plain = dict[Any, FunctionType]


def interpreted(kernel: Callable[P, R]) -> Callable[P, R]:
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
    if isinstance(value, ModuleType) and value.__name__.startswith("drafter.kernels"):
        used = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return SimpleNamespace(**{n: _plain_value(v, (), done) for n, v in used.items()})
    return value
