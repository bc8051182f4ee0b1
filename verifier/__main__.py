"""Run one verifier: `python -m verifier --model MODEL [--drafter HOST:PORT]`."""

import argparse
import asyncio
import logging
import os
import signal
import sys

from pydantic import ValidationError

from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing
from verifier.cache.memory import KVMemoryError
from verifier.config import VerifierConfig
from verifier.loading import follow_leader
from verifier.model.parallel import Group, ParallelError
from verifier.server import serve

logger = logging.getLogger(__name__)


def main() -> None:
    """Read the settings, log, serve."""
    config = read_config()
    configure_logging(config.log_level, config.log_format)
    group = Group.of(os.environ)
    if group.rank:
        follow_quietly(config, group)
        return
    tracer = start_tracing("verifier", os.environ)
    try:
        asyncio.run(serve(config, tracer, group))
    except (OSError, KVMemoryError, ParallelError) as error:
        # No such model, no room for it, or an address that is taken: the message says it all.
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
    except (OSError, RuntimeError, ParallelError) as error:
        # Rank 0 says why, or is gone.
        logger.error("cannot_follow rank=%d error=%s", group.rank, error)
        sys.exit(1)


def read_config() -> VerifierConfig:
    """Settings of the command line over those of the environment."""
    parser = argparse.ArgumentParser(prog="python -m verifier", description=__doc__)
    for name, field in VerifierConfig.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        return VerifierConfig(**given)
    except ValidationError as error:
        # Not by parser.error: the usage, of some thirty options, would bury the message.
        parser.exit(2, f"{parser.prog}: error: {problems(error)}\n")


def problems(error: ValidationError) -> str:
    """Name each wrong setting, what it may be and what it is."""
    lines = []
    for found in error.errors():
        name, given = ".".join(map(str, found["loc"])), found["input"]
        line = f"{name}: {found['msg'].removeprefix('Value error, ')}"
        is_told = not isinstance(given, str) or repr(given) in line  # nothing: it is missing
        lines.append(line if is_told else f"{line}, not {given!r}")
    return "; ".join(lines)


if __name__ == "__main__":
    main()
