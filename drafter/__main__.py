"""Run one drafter: `python -m drafter [--listen HOST:PORT] [--redis URL]`."""

import asyncio
import os

from drafter.config import DrafterConfig
from drafter.server import serve
from rpc.settings import read_settings
from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing


def main() -> None:
    """Read the settings, log, serve."""
    config = read_settings(DrafterConfig, "drafter", __doc__)
    configure_logging(config.log_level, config.log_format)
    tracer = start_tracing("drafter", os.environ)
    try:
        asyncio.run(serve(config, tracer))
    finally:
        if tracer is not None:
            tracer.stop()


if __name__ == "__main__":
    main()
