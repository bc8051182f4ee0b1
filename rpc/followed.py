"""Values read from files that may be replaced at any time: certificates, keys."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class Followed(Generic[Value]):
    """A value, read again when one of its files changes. What cannot be read changes nothing."""

    def __init__(
        self, name: str, files: Sequence[str | os.PathLike[str]], read: Callable[[], Value]
    ) -> None:
        """`name`: what it is, for the log. Raises what `read` raises, here and never later."""
        self._name, self._files, self._read = name, files, read
        self._stamps = self._seen()
        self._value = read()

    def current(self) -> Value:
        """The value of the files as they are now."""
        stamps = self._seen()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._value = self._read()
                logger.info("%s_renewed files=%d", self._name, len(self._files))
            except (OSError, ValueError) as error:  # half way through a change, say
                logger.warning("%s_unreadable error=%s", self._name, error)
        return self._value

    def _seen(self) -> list[tuple[int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What changes with a file; None while there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
