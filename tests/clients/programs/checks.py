"""What every program shares: it runs its checks one by one and says which passed.

Programs run in a client's own environment, so this needs nothing but Python itself.
Arguments: the gateway's URL without `/v1`, the name of the model, the folder of its files.
"""

import asyncio
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any

URL, MODEL, MODEL_FOLDER = sys.argv[1:4]
BASE_URL = f"{URL}/v1"
KEY = "none"

Function = Callable[[], Any]
CHECKS: list[tuple[str, Function]] = []


def check(name: str) -> Callable[[Function], Function]:
    """Add a function to the checks, under the words that docs/clients.md has for it."""

    def add(function: Function) -> Function:
        CHECKS.append((name, function))
        return function

    return add


def run() -> None:
    """Run all checks, whatever fails."""
    # One event loop for all, since clients keep connections that belong to it.
    with asyncio.Runner() as runner:
        passed = [_passes(name, function, runner) for name, function in CHECKS]
    sys.exit(0 if all(passed) else 1)


def _passes(name: str, function: Function, runner: asyncio.Runner) -> bool:
    try:
        result = function()
        if inspect.iscoroutine(result):
            runner.run(result)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(f"failed {name}", flush=True)
        return False
    print(f"passed {name}", flush=True)
    return True
