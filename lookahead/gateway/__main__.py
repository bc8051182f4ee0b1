"""Run one gateway: `python -m lookahead.gateway [--verifier HOST:PORT]`."""

import asyncio
import logging
import os
import sys

from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.process import serve
from rpc.settings import read_settings
from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing

logger = logging.getLogger(__name__)


def main() -> None:
    """Read the settings, log, serve."""
    config = read_settings(GatewayConfig, "lookahead.gateway", __doc__)
    configure_logging(config.log_level, config.log_format)
    tracer = start_tracing("gateway", os.environ)
    try:
        asyncio.run(serve(config, tracer))
    except OSError as error:  # an address that is taken
        logger.error("cannot_serve error=%s", error)
        sys.exit(1)
    finally:
        if tracer is not None:
            tracer.stop()


if __name__ == "__main__":
    main()
