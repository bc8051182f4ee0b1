"""Tests of drafters begin with compiled kernels."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def kernels(compiled_kernels: None) -> None:
    """Compile them outside the time limit of any test."""
