"""Run one verifier: `python -m verifier --model MODEL [--drafter HOST:PORT]`."""

import asyncio
import logging
import os
import signal
import sys

from rpc.server import ServerFailed
from rpc.settings import read_settings
from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing
from verifier.cache.memory import KVMemoryError
from verifier.config import VerifierConfig
from verifier.loading import NotBitwise, follow_leader
from verifier.model.packing import KernelError
from verifier.model.parallel import Group, ParallelError
from verifier.model.weights import CheckpointError
from verifier.server import serve

logger = logging.getLogger(__name__)


CANNOT_SERVE = (
    OSError,
    CheckpointError,
    KernelError,
    KVMemoryError,
    NotBitwise,
    ParallelError,
    ServerFailed,
)


def main() -> None:
    """Read the settings, log, serve."""
    config = read_settings(VerifierConfig, "verifier", __doc__)
    configure_logging(config.log_level, config.log_format)
    group = Group.of(os.environ)
    if group.rank:
        follow_quietly(config, group)
        return
    tracer = start_tracing("verifier", os.environ)
    try:
        asyncio.run(serve(config, tracer, group))
    except CANNOT_SERVE as error:
        # No such model, no room for it, an address that is taken: the message says it all.
        logger.error("cannot_serve error=%s", error)
        sys.exit(1)
    finally:
        if tracer is not None:
            tracer.stop()


def follow_quietly(config: VerifierConfig, group: Group) -> None:
    """Work for rank 0 until it ends, whoever asks for an end: it has streams to drain."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        follow_leader(config, group)
    except (*CANNOT_SERVE, RuntimeError) as error:
        # Rank 0 says why, or is gone.
        logger.error("cannot_follow rank=%d error=%s", group.rank, error)
        sys.exit(1)


if __name__ == "__main__":
    main()
