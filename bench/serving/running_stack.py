"""Our stack as a benchmark runs it: real processes on sockets of their own, without Redis."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lookahead import Client
from lookahead.stack.stack import NO_REDIS, StackConfig, running


@contextmanager
def running_stack(model: str, **settings: str) -> Iterator[Client]:
    """A client of a stack that serves `model`; one short request has been answered already."""
    environ = {**os.environ, **settings}
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig.apart(
            model, Path(directory), environ=environ, redis=NO_REDIS, embeds=True
        )
        with running(config), Client(config.verifier_address) as client:
            client.generate("Once upon a time", max_tokens=8, learn="none").wait()
            yield client
