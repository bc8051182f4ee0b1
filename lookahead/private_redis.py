"""Runs the stack's private Redis until it is told to stop: `private_redis DATA_DIR URL_FILE`.

A process of its own, so that the server ends with the stack however the stack ends. The URL file
appears once the server answers.
"""

import signal
import sys
import threading
from pathlib import Path

from drafter.local_redis import LocalRedis


def main() -> None:
    """Start the server, announce it, wait for SIGTERM, stop it."""
    data_dir, url_file = (Path(argument) for argument in sys.argv[1:])
    stopping = threading.Event()
    # A handler, not a blocked signal: the server would inherit the block and never hear its own.
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    redis = LocalRedis(data_dir)
    try:
        redis.start()
        partial = url_file.with_suffix(".partial")
        partial.write_text(redis.url)
        partial.rename(url_file)
        stopping.wait()
    finally:
        redis.stop()


if __name__ == "__main__":
    main()
