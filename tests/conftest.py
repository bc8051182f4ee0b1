"""Settings and fixtures for all tests."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from drafter.server import warm_up
from tests.support.models.saved_model import save_small_model
from verifier.kernels.attention import attention_kernels
from verifier.kernels.product import OUTPUT_KINDS, product_kernel

# Small models run slower on several threads, and much slower when other processes compete.
torch.set_num_threads(1)
SLOW_TIMEOUT_S = 120
# What else the machine does decides how long one example takes; tests have their time limit.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, as a directory."""
    path = tmp_path_factory.mktemp("model")
    save_small_model(path)
    return path


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """The drafter's kernels, compiled or from their cache: before that, drafts come too late."""
    warm_up()


@pytest.fixture(scope="session", autouse=True)
def row_kernels() -> None:
    """The verifier's kernels, compiled or from their cache, outside any test's time limit.

    In a fresh checkout they take a dozen seconds each.
    """
    for kind in OUTPUT_KINDS:
        product_kernel(kind)
        attention_kernels(kind)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time, unless they say themselves how much they need."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
