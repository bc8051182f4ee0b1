"""One child process of the local stack: a module of ours with its own log file."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookahead.stack import launch

LOG_TAIL_LINES = 12


class ChildProcess:
    """Runs `python -m module`. In a session of its own, so that Ctrl-C reaches only us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_path: Path,
        environ: Mapping[str, str],
        keeps_log: bool = False,
    ) -> None:
        """`keeps_log`: write behind what an earlier process of the same name said."""
        self.name = name
        self.log_path = log_path
        with log_path.open("ab" if keeps_log else "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", launch.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Id of the process; it stays the same when the module takes over."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def stop(self, timeout_s: float) -> None:
        """Ask it to stop; make it stop when it has not after `timeout_s`."""
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it, and what it started itself, at once."""
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines that it logged."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])
