"""Run one drafter: `python -m drafter [--listen HOST:PORT] [--redis URL]`."""

import argparse
import asyncio
import os

from pydantic import SecretStr

from drafter.config import DrafterConfig
from drafter.server import serve
from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing


def main() -> None:
    """Read the settings, log, serve."""
    parser = argparse.ArgumentParser(prog="python -m drafter", description=__doc__)
    parser.add_argument("--listen", help="address to serve on, host:port or unix:path")
    parser.add_argument("--redis", dest="redis_url", type=SecretStr, help="shared memory's URL")
    parser.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        config = DrafterConfig(**given)
    except ValueError as error:
        parser.error(str(error))
    configure_logging(config.log_level, config.log_format)
    tracer = start_tracing("drafter", os.environ)
    try:
        asyncio.run(serve(config, tracer))
    finally:
        if tracer is not None:
            tracer.stop()


if __name__ == "__main__":
    main()
