"""Starts `python -m MODULE` so that it is asked to stop when its parent dies, however it dies.

Run as a file: `launch.py PARENT_PID MODULE [ARGUMENT...]`. A hook between fork and exec could do
the same, but may deadlock once the parent has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then become the module."""
    parent_id, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent_id):
            sys.exit("the parent is already gone")
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    main()
