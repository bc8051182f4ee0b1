"""A worker as the benchmark sees it: a process that takes one call at a time, or says why not."""

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench.serving.peers.protocol import Answer, Job, Load

LOAD_S = 1800.0  # vLLM compiles for minutes, on a busy machine for many
CALL_S = 300.0
STOP_S = 10.0


class PeerUnavailable(RuntimeError):
    """A peer cannot be installed, started or asked; says why."""


class Worker:
    """Calls to a running worker."""

    def __init__(self, process: subprocess.Popen[str], log_path: Path) -> None:
        self._process = process
        self._log_path = log_path
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def load(self, load: Load) -> None:
        """Have it load a model."""
        self._call("load", LOAD_S, asdict(load))

    def answer(self, prompts: list[list[int]], max_tokens: int) -> list[Answer]:
        """Have all prompts answered at once."""
        found = self._call("answer", CALL_S, asdict(Job(prompts, max_tokens)))
        return [Answer(**answer) for answer in found]

    def read(self, prompts: list[list[int]]) -> None:
        """Have the prompts' rows cached."""
        self.answer(prompts, 1)

    def forget(self) -> None:
        """Have it drop what it remembers of earlier answers."""
        self._call("forget", CALL_S, {})

    def stop(self) -> None:
        """Ask it to end by the end of its input; kill it, and what it started, if it does not."""
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()

    def _call(self, name: str, timeout_s: float, fields: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            _pipe(self._process.stdin).write(json.dumps({"call": name, **fields}) + "\n")
            _pipe(self._process.stdin).flush()
            line = self._lines.get(timeout=timeout_s)
        except OSError:  # it does not read any more
            line = ""
        except queue.Empty:
            raise PeerUnavailable(f"no answer to {name} within {timeout_s:g} s") from None
        if not line:
            status = self._process.wait()
            raise PeerUnavailable(f"ended with status {status}: {last_line(self._log_path)}")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerUnavailable(reply["error"])
        result: list[dict[str, Any]] = reply["result"]
        return result

    def _read(self) -> None:
        with _pipe(self._process.stdout) as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")


@contextmanager
def worker(
    command: Sequence[str], *, environ: Mapping[str, str], log_path: Path
) -> Iterator[Worker]:
    """Run a worker for the length of a `with` block, in a session of its own."""
    process = _started(command, environ, log_path)
    running = Worker(process, log_path)
    try:
        yield running
    finally:
        running.stop()


def _started(
    command: Sequence[str], environ: Mapping[str, str], log_path: Path
) -> subprocess.Popen[str]:
    try:
        with log_path.open("w") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                text=True,
                start_new_session=True,
            )
    except OSError as error:
        raise PeerUnavailable(f"cannot be started: {error}") from error


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "it was opened as a pipe"
    return stream
