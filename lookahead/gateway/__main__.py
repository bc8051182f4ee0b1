"""Run one gateway: `python -m lookahead.gateway`; settings are LOOKAHEAD_GATEWAY_* variables."""

import asyncio
import logging
import os
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.process import serve
from rpc.telemetry import configure_logging
from rpc.tracing import start_tracing

logger = logging.getLogger(__name__)


def main() -> None:
    """Read the settings, log, serve."""
    config = read_config()
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


def read_config() -> GatewayConfig:
    """Settings of the environment; a bad one ends the process with its name, not its value."""
    try:
        return GatewayConfig()
    except (ValidationError, SettingsError) as error:
        sys.exit(f"python -m lookahead.gateway: error: {_problems(error)}")


def _problems(error: ValidationError | SettingsError) -> str:
    """Name what is wrong without quoting it: a bad value may be a key."""
    if isinstance(error, SettingsError):
        return str(error)
    found = error.errors(include_input=False, include_url=False)
    names = [".".join(map(str, each["loc"][:1])) or "settings" for each in found]
    messages = [each["msg"].removeprefix("Value error, ") for each in found]
    return "; ".join(f"{name}: {message}" for name, message in zip(names, messages, strict=True))


if __name__ == "__main__":
    main()
