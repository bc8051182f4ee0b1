"""Which servers the tests use, and how they wait for them."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable

import pytest


def redis_binary() -> str:
    """Return Debian's redis-server, or skip, or fail where the tests must not be skipped."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("redis-server is not installed")
        pytest.skip("needs Debian's redis-server")
    return found


async def eventually(true: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Poll a condition on the event loop; return how many seconds it took to become true."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < timeout_s, f"not so after {timeout_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - start
