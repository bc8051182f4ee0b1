"""The local stack without Redis for the length of a benchmark."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lookahead import Client
from lookahead.stack import NO_REDIS, Stack, StackConfig


@contextmanager
def running_stack(model: str) -> Iterator[Client]:
    """A client of a stack that serves `model`; one short request has been answered already."""
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig(
            model=model,
            directory=Path(directory),
            redis_dir=Path(directory) / "redis",
            verifier_address=f"unix:{directory}/v.sock",
            drafter_address=f"unix:{directory}/d.sock",
            redis=NO_REDIS,
            environ=os.environ,
        )
        stack = Stack(config)
        try:
            stack.start()
            with Client(config.verifier_address) as client:
                client.generate("Once upon a time", max_tokens=8, learn="none").wait()
                yield client
        finally:
            stack.stop()
