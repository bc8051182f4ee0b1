"""Run one verifier: `python -m verifier --model MODEL [--drafter HOST:PORT]`."""

import argparse
import asyncio
import logging
import os
import sys

from pydantic import ValidationError

from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing
from verifier.config import VerifierConfig
from verifier.kv_memory import KVMemoryError
from verifier.process import serve

logger = logging.getLogger(__name__)


def main() -> None:
    """Read the settings, log, serve."""
    config = read_config()
    configure_logging(config.log_level, config.log_format)
    tracer = start_tracing("verifier", os.environ)
    try:
        asyncio.run(serve(config, tracer))
    except (OSError, KVMemoryError) as error:
        # No such model, no room for it, or an address that is taken: the message says it all.
        logger.error("cannot_serve error=%s", error)
        sys.exit(1)
    finally:
        if tracer is not None:
            tracer.stop()


def read_config() -> VerifierConfig:
    """Settings of the command line over those of the environment."""
    parser = argparse.ArgumentParser(prog="python -m verifier", description=__doc__)
    for name, field in VerifierConfig.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        return VerifierConfig(**given)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        parser.error("; ".join(problems))


if __name__ == "__main__":
    main()
