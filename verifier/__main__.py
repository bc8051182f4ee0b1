"""Run one verifier: `python -m verifier --model MODEL [--drafter HOST:PORT]`."""

import argparse
import asyncio

from rpc.telemetry import configure_logging
from verifier.config import VerifierConfig
from verifier.process import serve


def main() -> None:
    """Read the settings, log, serve."""
    parser = argparse.ArgumentParser(prog="python -m verifier", description=__doc__)
    for name, field in VerifierConfig.model_fields.items():
        # Unset ones come from the environment; pydantic checks them all.
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    config = VerifierConfig(**given)
    configure_logging(config.log_level)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
