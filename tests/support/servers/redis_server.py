"""The Redis server that tests run."""

import os
import shutil

import pytest


def redis_binary() -> str:
    """Return Debian's redis-server, or skip, or fail where the tests must not be skipped."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("redis-server is not installed")
        pytest.skip("needs Debian's redis-server")
    return found
