"""The demo model on real processes, without a shared memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lookahead.stack.stack import NO_REDIS, Stack, StackConfig, running


@contextmanager
def demo_stack(model_path: str) -> Iterator[Stack]:
    """Drafter and verifier on sockets of their own."""
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig.apart(model_path, Path(directory), environ=os.environ, redis=NO_REDIS)
        with running(config) as stack:
            yield stack
