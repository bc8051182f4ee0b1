"""How our processes log: one line of key=value pairs per event, to stderr."""

import logging
import time

FORMAT = "%(asctime)s.%(msecs)03dZ level=%(levelname)s logger=%(name)s %(message)s"


def configure_logging(level: str) -> None:
    """Log everything from `level` upwards; called once, by `__main__`."""
    formatter = logging.Formatter(FORMAT, datefmt="time=%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
