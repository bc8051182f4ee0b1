"""How tests wait: for a condition, or for what a process says."""

import asyncio
import subprocess
import time
from collections.abc import Callable


async def eventually(true: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Poll a condition on the event loop; return how many seconds it took to become true.

    It sleeps in between: a loop that never rests keeps the interpreter's lock, and a pass in
    another thread waits for it after each of its operations.
    """
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < timeout_s, f"not so after {timeout_s} s"
        await asyncio.sleep(0.001)
    return time.monotonic() - start


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Return the output up to the line that holds the word."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"ended without {word!r}:\n{''.join(lines)}")
