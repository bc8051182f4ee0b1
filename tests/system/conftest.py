"""The demo model and a stack that serves it."""

from collections.abc import Iterator

import pytest
from rich.console import Console

from lookahead import Client
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import resolve_model
from tests.support.servers.demo_stack import demo_stack


@pytest.fixture(scope="session")
def model_path() -> str:
    """Where the demo model lies."""
    return resolve_model(DEMO, Console(quiet=True))


@pytest.fixture(scope="module")
def client(model_path: str) -> Iterator[Client]:
    """A client of a stack that serves the demo model."""
    with demo_stack(model_path) as stack, Client(stack.config.verifier_address) as client:
        yield client
