"""Runs the stack's private Redis until it is told to stop: `private_redis DATA_DIR URL_FILE`.

A process of its own, so that the server ends with the stack however the stack ends. The URL file
appears once the server answers.
"""

import signal
import sys
from pathlib import Path

from drafter.local_redis import LocalRedis


def main() -> None:
    """Start the server, announce it, wait for SIGTERM, stop it."""
    data_dir, url_file = (Path(argument) for argument in sys.argv[1:])
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked from the start: a signal during start-up must wait for the server to be stoppable.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    redis = LocalRedis(data_dir)
    redis.start()
    try:
        partial = url_file.with_suffix(".partial")
        partial.write_text(redis.url)
        partial.rename(url_file)
        signal.sigwait(stop_signals)
    finally:
        redis.stop()


if __name__ == "__main__":
    main()
